"""The recipe's trainings: what they learn from, that they learn, and that they resume."""

import csv
import ctypes.util
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.westlake.checkpoint import load_checkpoint
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from training import codec as codec_training
from training import vocoder as vocoder_training
from training.clarity import carriers, choose_clear, heard_right, listener
from training.conversations import Conversations
from training.corpus import Spoken, reply_lines, user_lines
from training.dialogues import STYLES, load_dialogues
from training.judge import Judge
from training.language_model import code_numbers
from training.loop import Stage
from training.pitch import Sound, lock_pitch, make
from training.preference import _train, log_probability
from training.readings import PUNCTUATION
from training.spelling import Speller
from training.syllables import (
    Recorder,
    Syllables,
    Take,
    at_edge,
    covering,
    load_syllables,
    mark_phases,
)
from training.synthesise import speak_assistant
from training.timing import speak_timed

SEMANTIC_ID = 30
CONFIG = DualARConfig(
    vocab_size=32,
    n_layer=1,
    n_head=2,
    dim=32,
    intermediate_size=48,
    n_fast_layer=1,
    codebook_size=12,
    num_codebooks=3,
    max_seq_len=64,
)
NUM_FRAMES = 160
READINGS = {"你好": [("n", "i2"), ("X", "Au3")], "好": [("X", "Au3")]}


needs_espeak = pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None,
    reason="espeak-ng is missing: apt-get install espeak-ng",
)


@pytest.fixture
def model() -> DualARTransformer:
    torch.manual_seed(0)
    return DualARTransformer(CONFIG, SEMANTIC_ID).eval()


def random_frames(num_frames: int, seed: int) -> torch.Tensor:
    """Spoken frames [1+K, n]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, CONFIG.codebook_size, (3, num_frames), generator=generator)
    return torch.cat([torch.full((1, num_frames), SEMANTIC_ID), codes])


def test_a_stage_learns_and_goes_on_where_it_was(tmp_path: Path):
    layer = nn.Linear(1, 1)
    stage = Stage(
        name="line", folder=tmp_path, minutes=0.01, learning_rate=0.1, validate_seconds=0.1
    )
    steps: list[int] = []

    def step(index: int) -> torch.Tensor:
        steps.append(index)
        return (layer(torch.ones(1, 1)) - 3).square().sum()

    stage.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    with open(tmp_path / "line.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert (tmp_path / "line.png").stat().st_size > 1000

    learned, before = layer.weight.item(), len(steps)
    layer.reset_parameters()
    stage.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    assert layer.weight.item() == learned and len(steps) == before  # no time is left
    longer = Stage(name="line", folder=tmp_path, minutes=0.012, learning_rate=0.1)
    longer.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    assert steps == list(range(len(steps))) and len(steps) > before


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path: Path):
    layer = nn.Linear(1, 1)
    stage = Stage(name="line", folder=tmp_path, minutes=1, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="line: the loss is nan at step 0"):
        stage.run({"layer": layer}, lambda index: layer.weight.sum() * torch.nan, lambda index: {})
    assert not (tmp_path / "line.pt").exists()


def test_the_speller_learns_to_spell():
    torch.manual_seed(0)
    speller = Speller(8, READINGS)
    heard = [torch.randn(9, 8), torch.randn(5, 8)]
    texts = [["你好", "好"], ["好"]]
    optimizer = torch.optim.Adam(speller.parameters(), 0.1)
    losses = []
    for _ in range(60):
        losses.append(speller.loss(heard, texts))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    assert speller.targets["你好"].tolist()[2:] == speller.targets["好"].tolist()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty seconds of noise that grows louder and softer, as speech does."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20 * 22050) * np.repeat(rng.uniform(50, 9000, 200), 2205)
    path = tmp_path / "speech.npy"
    np.save(path, noise.clip(-32768, 32767).astype(np.int16))
    return path


def test_components_are_read_back_from_their_codes(recording: Path, monkeypatch):
    monkeypatch.setattr(codec_training, "GUIDE_FRAMES", 400)
    monkeypatch.setattr(codec_training, "FINEST", 0.1)
    codec = codec_training.new_codec()
    wave = codec_training.Crops(recording, 0, "cpu").draw(1, 400 * 1024)
    guide = codec_training.Components(codec, wave)
    mel = codec.spec_transform(wave)
    numbers = guide(mel)
    assert numbers.shape == (400, 32)
    torch.testing.assert_close(numbers.T.cov(), torch.eye(32), rtol=0, atol=1e-2)
    read, codes = guide.read(numbers)
    blocks = guide.blocks(mel)
    assert codes.shape == (8, 400) and codes.max() < 1000 and len(codes[0].unique()) > 100
    error, rest = (read - blocks).square().mean(), (blocks - blocks.mean(0)).square().mean()
    assert error < 0.3 * rest
    # What the codec's own quantiser makes of the same numbers.
    spread = torch.tensor(codec_training.SPREAD)
    for group, rvq in enumerate(codec.quantizer.residual_fsq.rvqs):
        rvq.project_in = nn.Identity()
        _, indices = rvq(numbers.unflatten(1, (8, 4))[None, :, group] * spread)
        assert torch.equal(indices[0, :, 0], codes[group])


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """Seven seconds of noise, and any codes."""
    path = tmp_path / "locked.pt"
    generator = torch.Generator().manual_seed(0)
    wave = torch.randint(-9000, 9000, (150 * 1024,), generator=generator, dtype=torch.int16)
    codes = torch.randint(0, 1000, (2, 8, 150), generator=generator, dtype=torch.int16)
    torch.save({"wave": wave, "codes": codes}, path)
    return path


def test_locked_pieces_are_codes_and_their_wave(locked: Path):
    crops = vocoder_training.LockedCrops({locked: 1.0}, 0, "cpu")
    codes, wave = crops.draw(6, 10)
    assert codes.shape == (6, 8, 10) and wave.shape == (6, 1, 10_240)
    file = torch.load(locked, weights_only=True)
    for piece, row in zip(wave[:, 0] * 32768, codes):
        start = int((file["wave"].unfold(0, 3, 1) == piece[:3]).all(1).nonzero()[0])
        assert any(torch.equal(row, c[:, start // 1024 :][:, :10].long()) for c in file["codes"])


def test_the_codec_is_trained_in_three_stages(
    recording: Path, locked: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(codec_training, "GUIDE_FRAMES", 400)
    stages = tmp_path / "stages"
    codes = codec_training.train_codes(recording, recording, stages, 0.02, "cpu")
    shares = {locked: 1.0}
    ear = Judge(["a1"]).eval()
    slow = vocoder_training.train_slow_stages(codes, ear, shares, shares, stages, 0.02, "cpu")
    learned = torch.load(slow, weights_only=True)["modules"]["decoder"]
    vocoder = vocoder_training.train_vocoder(codes, slow, ear, shares, shares, stages, 0.0, "cpu")
    first = vocoder.head.conv_pre.state_dict()
    assert all(torch.equal(learned[f"head.conv_pre.{key}"], x) for key, x in first.items())

    vocoder = vocoder_training.train_vocoder(codes, slow, ear, shares, shares, stages, 0.02, "cpu")
    assert vocoder.training is False
    loaded = vocoder_training.load_codec(codes, stages / "vocoder.pt")
    for (name, a), b in zip(vocoder.state_dict().items(), loaded.state_dict().values()):
        assert torch.equal(a, b), name
    # What the codes are made by stays as stage one left it.
    untouched = codec_training.load_codes(codes).backbone.state_dict()
    assert all(torch.equal(untouched[key], x) for key, x in vocoder.backbone.state_dict().items())


def test_the_wave_loss_is_1_for_silence():
    wave = torch.randn(2, 1, 4096) * torch.tensor([0.1, 0.001])[:, None, None]
    assert vocoder_training.wave_loss(wave, wave) == 0
    silence = vocoder_training.wave_loss(torch.zeros_like(wave), wave)
    torch.testing.assert_close(silence, torch.tensor(1.0))


def test_a_locked_voice_has_whole_periods_in_every_frame():
    frequency = np.linspace(180, 260, 1024 * 40)  # Hz, gliding
    phase = np.cumsum(frequency) / 22050
    voice = sum(np.cos(2 * np.pi * n * phase) / n for n in range(1, 12)).astype(np.float32) / 8
    locked = lock_pitch(voice)
    assert locked.shape == voice.shape and locked.dtype == np.float32

    def likeness(wave: np.ndarray) -> float:
        """Median correlation of one frame with the next."""
        frames = wave.reshape(-1, 1024)[2:-2]
        return np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(frames, frames[1:])])

    assert likeness(locked) > 0.6 > 0.3 > abs(likeness(voice))
    np.testing.assert_array_equal(lock_pitch(voice[:2048] * 0), 0)  # silence stays silent


def test_a_sound_is_made_with_whole_periods_and_its_pitch():
    frequency = np.linspace(150, 190, 1024 * 20)  # Hz, gliding
    phase = np.cumsum(frequency) / 22050
    voice = sum(np.cos(2 * np.pi * n * phase) / n for n in range(1, 12)).astype(np.float32) / 8
    sound = Sound.analyse(voice)
    parts = [sound.stretch(1024 * n, 1024 * (n + 4), 5) for n in (2, 6, 10)]
    sounds = [Sound.silence(4), *parts, Sound.silence(2)]
    wave = make(sounds)
    assert wave.shape == (21 * 1024,) and wave.dtype == np.float32
    for part, heard in zip(parts, (155, 163, 171)):
        quarters = part.quarters()
        assert len(quarters) == 6 and quarters[0] == 0 and quarters[-1] % 4 == 0
        # Stretching leaves the pitch alone, and fitting it moves it by little.
        np.testing.assert_allclose(quarters[-1] / 4 / 5 * 22050 / 1024, heard, rtol=0.04)
    # Wherever a syllable begins, the voice is at the same place in its period.
    starts = [wave[1024 * n : 1024 * n + 80] for n in (4, 9, 14)]
    assert min(np.corrcoef(starts)[np.triu_indices(3, 1)]) > 0.9
    assert np.abs(wave[: 3 * 1024]).max() < 1e-3 < np.abs(starts[0]).max()


def test_a_reply_is_put_together_from_syllables():
    codec = codec_training.new_codec()
    codes = {
        ("warm", ("n", "i2")): torch.full((8, 3), 1).short(),
        ("warm", ("X", "Au3")): torch.full((8, 4), 2).short(),
    }
    silence = torch.zeros(8, 1).short()
    readings = {"你好，好。": [("n", "i2"), ("X", "Au3"), ("X", "Au3")]}
    syllables = Syllables(codes=codes, silence=silence, readings=readings)
    said = syllables.say("", "你好，好。", "warm")
    assert said.codes[0].tolist() == [0] * 4 + [1] * 3 + [2] * 4 + [0] * 3 + [2] * 4 + [0] * 3
    assert said.onsets == [4, 7, 14]
    names = {0: "", 1: "n i2", 2: "X Au3"}
    assert said.syllables == [names[code] for code in said.codes[0].tolist()]
    assert at_edge("你好，好吗今") == [True, True, True, False, True]

    marked = torch.full((8, 4), 437).short()  # 437 is (5, 4, 0, 2) in levels of 8, 5, 5, 5
    mark_phases(codec, marked, np.array([0, 5, 10, 15]))
    assert marked[:6].unique().tolist() == [437]
    cosines, sines = (marked[6:] - 37) // 200 / 2 - 1
    assert cosines.tolist() == [1, 0, -1, 0] and sines.tolist() == [0, 1, 0, -1]


@needs_espeak
def test_syllables_are_recorded_and_said_alike(tmp_path: Path, monkeypatch):
    lines = [("greeting", "你好。"), ("greeting", "你好，真的很好。")]
    monkeypatch.setattr("training.syllables.reply_lines", lambda dialogues: lines)
    monkeypatch.setattr("training.syllables.STYLES", ("warm", "calm"))
    codec, dialogues = codec_training.new_codec().eval(), load_dialogues()
    path, speech = tmp_path / "syllables.pt", tmp_path / "speech.pt"
    recorder = Recorder(codec, dialogues, workers=1)
    recorder.write(recorder.typical(), path, speech, minutes=0.2)
    replies = list(load_syllables(path).replies(dialogues))
    assert [(reply.text, reply.manner) for reply in replies] == [
        (text, style) for _, text in lines for style in ("warm", "calm")
    ]
    for reply in replies:
        assert reply.codes.shape == (8, len(reply.syllables)) and reply.codes.dtype == torch.int16
        assert reply.syllables[:4] == [""] * 4 and reply.syllables[4] == reply.syllables[5] != ""
    # 你 is the same in both lines, with its phase: it begins with a period.
    short, long = (reply.codes[:, 4 : reply.onsets[1]] for reply in (replies[0], replies[2]))
    assert torch.equal(short, long) and (short[6:, 0] // 200).tolist() == [4, 2]
    written = torch.load(speech, weights_only=True)
    assert len(written["wave"]) == 1024 * written["codes"].shape[2] >= 0.2 * 60 * 22050
    assert written["wave"].abs().max() > 1000


def test_every_syllable_is_covered_inside_a_line_where_it_can_be():
    readings = {"甲乙丙": ["a", "b", "c"], "乙丙甲": ["b", "c", "a"], "丁，甲": ["d", "a"]}
    # In the middle only b and c are heard, d and a stand at an edge.
    assert sorted(covering(readings)) == ["丁，甲", "乙丙甲", "甲乙丙"]
    # Here d does not need its line, and neither does a.
    readings["乙甲丁丙"] = ["b", "a", "d", "c"]
    assert sorted(covering(readings)) == ["乙丙甲", "乙甲丁丙", "甲乙丙"]


def test_a_listener_hears_what_the_slow_stages_say():
    codec = codec_training.new_codec().eval()
    hear = listener(codec, vocoder_training.SlowStages(codec), Judge(["a", "b", "i1"]).eval())
    codes = torch.randint(0, 1000, (8, 30)).short()
    heard = hear(codes, 3)
    assert heard == hear(codes, 3) and len(heard) > 0


def test_a_line_is_heard_right_where_it_matches():
    assert heard_right(["a", "b", "c", "a"], ["a", "c", "c", "a"]) == [True, False, True, True]
    assert heard_right(["a", "b"], ["x", "a", "b", "y"]) == [True, True]
    assert heard_right(["a", "b"], []) == [False, False]


def test_wanted_syllables_are_carried_by_few_lines():
    readings = {"甲乙丙": ["a", "b", "c"], "乙丙甲": ["b", "c", "a"], "丁": ["d"], "戊": ["e"]}
    assert carriers(readings, {"a", "d"}, 1) == ["甲乙丙", "丁"]
    assert carriers(readings, {"a", "d"}, 2) == ["甲乙丙", "乙丙甲", "丁"]  # of d there is no more


def test_unclear_syllables_are_recorded_again_until_they_are_heard():
    """A recorder whose takes carry their name as codes: 'b' is clear only as its third take."""
    names = {"a": 10, "b": 20}

    def take(syllable: str, number: int) -> Take:
        sound = Sound.silence(2)
        codes = torch.full((8, 2), names[syllable] + number).short()
        return Take(sound=sound, codes=codes, at_edge=False)

    class Recorded:
        readings = {"甲乙": ["a", "b"], "乙": ["b"], "乙，乙": ["b", "b"]}
        silence, workers = torch.zeros(8, 1).short(), 1
        wanted: list[list[tuple[str, str]]] = []

        def typical(self):
            return {(style, s): take(s, 0) for style in STYLES for s in names}

        def record(self, lines, cuts):
            self.wanted.append(lines)
            for text, style in lines:
                for syllable in self.readings[text]:
                    for number in range(1, 1 + len(cuts)):
                        yield (style, syllable), take(syllable, number)

    def hear(codes, seed):
        frames = [code for code in codes[0].tolist() if code][::2]
        return [{10: "a", 23: "b"}.get(code, "?") for code in frames]

    recorder = Recorded()
    takes = choose_clear(recorder, hear)
    assert len(recorder.wanted) == len(STYLES)
    assert {int(takes[style, "a"].codes[0, 0]) for style in STYLES} == {10}
    assert {int(takes[style, "b"].codes[0, 0]) for style in STYLES} == {23}


@needs_espeak
def test_espeak_tells_when_each_syllable_is_said():
    text = "先登录好购票软件，填好信息。"
    with Pool(1, maxtasksperchild=1) as pool:
        wave, spans = pool.apply(speak_timed, (text, "calm"))
    assert len(spans) == 12
    assert all(start < end for start, end in spans)
    pauses = [after - end for (_, end), (after, _) in zip(spans, spans[1:])]
    assert [n for n, pause in enumerate(pauses) if pause > 1000] == [7]
    # The program says the same; what `speak` cuts off and adds is silence.
    program = speak_assistant(text, "calm")[1323:-2646]
    first = next(n for n in range(4000) if np.abs(wave[n : n + 500] - program[:500]).max() < 1e-3)
    assert np.abs(wave[first : first + len(program)] - program).max() < 1e-3


@pytest.fixture(scope="module")
def conversations() -> Conversations:
    dialogues = load_dialogues()

    def spoken(intent: str, text: str, manner: str) -> Spoken:
        onsets = [4 + 3 * n for n in range(sum(char not in PUNCTUATION for char in text))]
        codes = torch.ones(8, NUM_FRAMES).short()
        return Spoken(intent=intent, text=text, manner=manner, codes=codes, onsets=onsets)

    users = [spoken(name, text, "sad") for name, text, _ in user_lines(dialogues, heldout=False)]
    replies = [spoken(*line, style) for line in reply_lines(dialogues) for style in STYLES]
    return Conversations(dialogues, users, replies, load_checkpoint("tiny").tokenizer, 8)


@pytest.mark.parametrize("speak", [True, False])
def test_what_is_learned_of_a_conversation(conversations: Conversations, speak: bool):
    rng = np.random.default_rng(0)
    tokens, num_turns = conversations.tokens, []
    for _ in range(30):
        example = conversations.draw(rng, speak)
        text = example.grid[0]
        learned = conversations.tokenizer.decode(text[example.learn_text], skip_special_tokens=True)
        num_turns.append(len(example.asked))
        for column, question in example.asked:
            # The reply begins behind it, with the emotion and the style.
            words = conversations.tokenizer.decode(text[column + 1 : column + 3])
            assert words.startswith("<|user:") and "<|style:" in words
            assert example.learn_text[column + 1] and not example.learn_text[column]
            assert question in conversations.questions
            if speak:
                reply = text[column + 1 : column + 1 + NUM_FRAMES]
                written = conversations.tokenizer.decode(reply, skip_special_tokens=True)
                assert written in {text for text, _ in conversations.replies}
                assert example.learn_codes[column + 1 : column + 1 + NUM_FRAMES].all()
                assert text[column + 1 + NUM_FRAMES] == tokens.end
                assert example.learn_text[column + 1 + NUM_FRAMES]
                assert written in learned
        for start, end, _ in example.heard:
            assert end - start == NUM_FRAMES and not example.learn_text[start:end].any()
        if not speak:  # words, without the columns between them and without the end
            assert not example.learn_codes.any()
            assert not (text[example.learn_text] == tokens.semantic).any()
            assert not example.learn_text[-1] and text[-1] == tokens.end
    assert set(num_turns) == {1, 2}


def test_a_reply_writes_each_character_before_it_is_spoken(conversations: Conversations):
    text, style = "好，你好。", "warm"
    spoken = Spoken(
        intent="", text=text, manner=style, codes=torch.ones(8, 40).short(), onsets=[4, 12, 13]
    )
    row = conversations.reply_columns("sad", spoken)[0].tolist()
    written = {n: t for n, t in enumerate(row) if t != conversations.tokens.semantic}
    pieces = {n: conversations.tokenizer.decode([t]) for n, t in written.items()}
    assert pieces == {
        0: "<|user:sad|>", 1: "<|style:warm|>", 2: "好", 3: "，", 10: "你", 11: "好", 12: "。"
    }  # fmt: skip


def test_text_is_cut_into_pieces_that_say_the_same(conversations: Conversations):
    user = next(iter(conversations.users.values()))[0]
    whole = conversations.prompt(user, "text")
    cut = conversations.prompt(user, "text", rng=np.random.default_rng(0))
    assert cut.shape[1] > whole.shape[1]
    decode = conversations.tokenizer.decode
    assert decode(cut[0]) == decode(whole[0]) and user.text in decode(cut[0])


def test_code_numbers_are_the_quantisers():
    codebook = codec_training.new_codec().quantizer.residual_fsq.rvqs[0].layers[0].implicit_codebook
    half = torch.tensor([4.0, 2.0, 2.0, 2.0])
    torch.testing.assert_close((code_numbers() - half) / half, codebook.float())


def test_log_probability_is_that_of_every_token_and_code(model):
    prompt, reply = random_frames(5, 1), random_frames(4, 2)
    end = torch.zeros(4, 1, dtype=torch.long)
    end[0] = 7
    with torch.no_grad():
        found = log_probability(model, [(prompt, torch.cat([reply, end], 1)), (prompt, reply)])
        logits, hidden = model(torch.cat([prompt, reply], dim=1)[None])
        text = logits[0, 4:].log_softmax(-1)
        codes = model.forward_fast(hidden[0, 4:-1], reply[1:3].T).log_softmax(-1)
        expected = text[:-1, SEMANTIC_ID].sum() + codes.gather(2, reply[1:].T[..., None]).sum()
    torch.testing.assert_close(found, torch.stack([expected + text[-1, 7], expected]))


def test_preference_moves_away_from_the_bad_replies(model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.preference.LEARNING_RATE", 1e-2)
    pairs = [(random_frames(4, i), random_frames(6, 100), random_frames(6, 200)) for i in range(16)]
    trained = _train(model, pairs, tmp_path, 0.03, "cpu")
    (good, bad), (good_before, bad_before) = (
        log_probability(m, [pairs[0][:2], pairs[0][::2]]) for m in (trained, model)
    )
    assert good - bad > good_before - bad_before
