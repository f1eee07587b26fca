"""A recipe in small: a made-up teacher, a few dialogues, small models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_device import NAME
from recipe import interpolated, make_spoken

from models.tokenizer import load_tokenizer
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from training import loop
from training.codec import config as codec_config
from training.codec.polish import Size
from training.dialogues import Dialogues, load_dialogues
from training.language import model as language_model
from training.language import wording
from training.language.batch import Labels
from training.language.batches import BatchSizes
from training.language.conversations import Conversations
from training.language.corpus import Spoken
from training.language.tokenizer import late_tokens, write_tokenizer
from training.speech import lines, pinyin, speakers, teacher

SMALL_DIALOGUES = """\
@ health.insomnia
emotions tired anxious
user 我最近总是睡不着。
user 晚上睡不着觉怎么办？
user 我睡了三个月都不好。
held 躺了两个小时没有睡意。
words 褪黑素 数羊
reply comforting 睡不着真难受。
reply comforting 我陪着你。
reply encouraging 会好的。
then how 听点轻音乐。
then more 多晒太阳。

@ talk.hello
emotions neutral happy
user 你好。
user 早上好！
held 你好吗？
reply warm 你好，我在。
reply cheerful 你好呀！
then how 直接说吧。
then more 我都想听。

@ unknown.other
emotions neutral
user 光有多快？
held 水有多重？
reply warm 这个我不会。
reply calm 我没有学过。
then how 问大模型吧。
then more 我还小。

@ unknown.unclear
emotions neutral
reply warm 没听清。
then how 慢点说。
then more 大声点。

@ unknown.silence
emotions neutral
reply warm 没有声音。
then how 打开麦克风。
then more 看看音量。

@ follow.how
user 那我该怎么办？
held 我该怎么做？

@ follow.more
user 还有呢？
held 还有别的吗？
"""


@pytest.fixture(autouse=True)
def plot_curves(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The one that draws; what stages call instead is as fast as the tests need it."""
    real = loop.plot_curves
    monkeypatch.setattr(loop, "plot_curves", lambda rows, path, title: path.write_text(title))
    return real


@pytest.fixture(scope="session")
def shipped() -> Dialogues:
    """The dialogues of the project."""
    return load_dialogues()


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Dialogues:
    """Five intents."""
    folder = tmp_path_factory.mktemp("dialogues")
    (folder / "small.txt").write_text(SMALL_DIALOGUES, encoding="utf-8")
    return load_dialogues(folder)


@pytest.fixture
def no_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traditional characters by a table of a few, as the real one need not be installed."""
    table = str.maketrans({"个": "個", "么": "麼", "觉": "覺", "还": "還"})
    monkeypatch.setattr(wording, "traditional", lambda text: text.translate(table))
    monkeypatch.setattr("training.language.tokenizer.traditional", wording.traditional)


@pytest.fixture(scope="session")
def tokenizer(dialogues: Dialogues, tmp_path_factory: pytest.TempPathFactory):
    """Of the few dialogues."""
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.language.tokenizer.traditional", lambda text: text)
        write_tokenizer(dialogues, folder, 400)
    return load_tokenizer(folder, 400 + len(late_tokens(dialogues)))


@pytest.fixture
def made_up_teacher(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A teacher who sings a tone a character, by the voice's shares and the prosody."""

    def say(text, timbre, melody, prosody, voices=None) -> teacher.Said:
        characters = [c for c in text if c not in pinyin.PUNCTUATION]
        seconds = 0.15 / prosody.rate
        length = round(seconds * teacher.SAMPLE_RATE)
        time = np.arange(length) / teacher.SAMPLE_RATE
        hertz = 200 * prosody.pitch * (1 + melody.get("jf_alpha", 0) / 5)
        waves = []
        for character in characters:
            partials = (1, 2, 3, 4 + ord(character) % 7)
            waves.append(sum(np.sin(2 * np.pi * hertz * n * time) / n for n in partials))
        wave = 0.2 * np.concatenate(waves).astype(np.float32)
        lead = np.zeros(2400, np.float32)
        onsets = [0.1 + n * length / teacher.SAMPLE_RATE for n in range(len(characters))]
        onsets = [] if text.startswith("/") else onsets
        return teacher.Said(np.concatenate([lead, wave, lead]), onsets)

    monkeypatch.setattr(teacher, "say", say)
    monkeypatch.setattr(speakers, "_resample", interpolated)
    return say


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """All models of the recipe at a small size, and small batches."""
    small = dataclasses.replace(
        codec_config.TINY_CODEC,
        encoder_depths=(1, 1, 1, 1),
        encoder_dims=(16, 24, 32, 32),
        decoder_dim=32,
        resblock_kernel_sizes=(3,),
        resblock_dilations=(1,),
    )
    monkeypatch.setattr(codec_config, "TINY_CODEC", small)
    sizes = {"n_layer": 4, "n_head": 2, "n_local_heads": 2, "dim": 32, "intermediate_size": 48}
    sizes |= {"n_local_heads_fast": 2, "intermediate_size_fast": 48, "max_seq_len": 512}
    monkeypatch.setattr(
        language_model, "DualARConfig", lambda **config: DualARConfig(**{**config, **sizes})
    )
    for module, values in {
        "codec.encoder": {
            "GUIDE_CROPS": 16, "CROP_FRAMES": 16, "BATCH_SIZE": 2, "VALIDATION_CROPS": 2,
            "FINEST": 0.1,
        },
        "codec.hearing": {
            "WIDTH": 16, "DILATIONS": (1, 2), "BATCH_SIZE": 2, "ROUND_BATCHES": 2,
        },
        "codec.vocoder": {
            "SLOW_BATCH": (2, 8), "BATCH": (1, 8), "SLOW_VALIDATION": (2, 8), "VALIDATION": (2, 8),
        },
        "codec.polish": {
            "SIZES": dict.fromkeys(("cpu", NAME), Size(batch=(1, 8), width=4)),
            "VALIDATION": (2, 8),
        },
        "recogniser.recogniser": {
            "WIDTH": 16, "DILATIONS": (1, 2), "BATCH_SIZE": 2, "ROUND_BATCHES": 2,
            "FIRST_UTTERANCES": 4, "FRESH_UTTERANCES": 2,
        },
        "language.model": {
            "BATCH_SIZES": dict.fromkeys(
                ("cpu", NAME), BatchSizes(questions=4, words=3, spoken=2, code_frames=200)
            ),
            "DRAWING_WORKERS": {"cpu": 0, NAME: 0},
            "VALIDATION_CONVERSATIONS": 2, "MAX_WORDS": 4,
        },
        "language.batches": {"POOL_BATCHES": 2, "VALIDATION_USERS": 2},
        "language.preference": {
            "NUM_PROMPTS": 8, "NUM_TESTED": 2, "NUM_ROWS": 2, "MAX_FRAMES": 9, "BATCH_SIZE": 2,
        },
    }.items():  # fmt: skip
        for name, value in values.items():
            monkeypatch.setattr(f"training.{module}.{name}", value)


@pytest.fixture(scope="session")
def spoken_users(dialogues: Dialogues) -> list[Spoken]:
    """Every user line in three emotions, and sounds that nobody understands."""
    found = [
        make_spoken(line.source, line.text, manner)
        for line in lines.user_lines(dialogues, 1, seed=0)
        for manner in ("sad", "neutral", "happy")
    ]
    for name in ("unknown.unclear", "unknown.silence"):
        found += [make_spoken(name, "", "neutral", seed) for seed in range(2)]
    return found


@pytest.fixture(scope="session")
def spoken_replies(dialogues: Dialogues) -> list[Spoken]:
    """Every reply in the styles it is asked for."""
    return [
        make_spoken(line.source, line.text, line.manner)
        for line in lines.reply_lines(dialogues, seed=0)
    ]


@pytest.fixture
def conversations(
    dialogues: Dialogues, spoken_users, spoken_replies, tokenizer, no_converter
) -> Conversations:
    return Conversations(dialogues, spoken_users, spoken_replies, tokenizer, 8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twenty seconds of noise that grows louder and softer, as speech does."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20 * 22050) * np.repeat(rng.uniform(50, 9000, 200), 2205)
    path = tmp_path / "speech.npy"
    np.save(path, noise.clip(-32768, 32767).astype(np.int16))
    return path


@pytest.fixture
def model(tokenizer, small_models) -> DualARTransformer:
    return language_model.new_language_model(tokenizer)


@pytest.fixture
def labels(dialogues: Dialogues, tokenizer) -> Labels:
    return Labels(dialogues, tokenizer)
