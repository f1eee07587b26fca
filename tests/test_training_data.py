"""The recipe's data: the dialogues' parser, the shipped dialogues, the synthesiser."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from training import synthesise
from training.dialogues import (
    EMOTIONS,
    FOLLOWUPS,
    STYLE_FOR_EMOTION,
    STYLES,
    Dialogues,
    load_dialogues,
)
from training.prosody import ProsodyMeasure, measure_prosody
from training.readings import apply_tone_sandhi, respell
from training.synthesise import (
    ASSISTANT_VOICE,
    HELDOUT_VOICES,
    SAMPLE_RATE,
    STYLE_PROSODY,
    TRAIN_VOICES,
    USER_PROSODY,
    Prosody,
    UserSpeaker,
    phonemes,
    speak,
    speak_assistant,
    speak_user,
)

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is missing: apt-get install espeak-ng"
)

INSOMNIA = """\
# a comment
@ health.insomnia
emotions tired anxious
user 我最近总是睡不着。
user 晚上睡不着觉怎么办？
held 躺了两个小时还是没有睡意。
reply comforting 睡不着真难受。
reply warm 慢慢会好的。
reply warm 早点睡吧。
then how 听点轻音乐。
then more 多晒晒太阳。
"""
FOLLOW = """\
@ follow.how
user 那我该怎么办？
held 我该怎么做？

@ follow.more
user 还有呢？
held 还有别的吗？
"""


def write(folder: Path, intents: str = INSOMNIA) -> Path:
    (folder / "health.txt").write_text(intents, encoding="utf-8")
    (folder / "followups.txt").write_text(FOLLOW, encoding="utf-8")
    return folder


# ---- the parser


def test_parser_reads_blocks(tmp_path: Path) -> None:
    dialogues = load_dialogues(write(tmp_path))
    (intent,) = dialogues.intents
    assert (intent.name, intent.scene) == ("health.insomnia", "health")
    assert intent.emotions == ("tired", "anxious")
    assert intent.users == ("我最近总是睡不着。", "晚上睡不着觉怎么办？")
    assert intent.held == ("躺了两个小时还是没有睡意。",)
    assert intent.replies == {
        "comforting": ("睡不着真难受。",),
        "warm": ("慢慢会好的。", "早点睡吧。"),
    }
    assert intent.then == {"how": "听点轻音乐。", "more": "多晒晒太阳。"}
    assert dialogues.followups["more"] == (("还有呢？",), ("还有别的吗？",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("emotions tired", "emotions bored", r"health\.txt:3: unknown emotion 'bored'"),
        ("reply warm 早点", "reply loud 早点", r"health\.txt:9: unknown style 'loud'"),
        ("then more", "then why", r"health\.txt:11: unknown follow-up 'why'"),
        ("then more", "then how", r"health\.txt:11: a second 'then how'"),
        ("then more 多晒晒太阳。\n", "", r"health\.txt:2: .* no 'then more' line"),
        ("held 躺了", "helt 躺了", r"health\.txt:6: unknown line 'helt'"),
        ("user 我最近", "user 我OK", r"health\.txt:4: '我OK.*Chinese characters"),
        ("reply warm 早点睡吧。", "reply warm", r"health\.txt:9: '': write Chinese"),
        ("@ health.insomnia", "@ Insomnia", r"health\.txt:2: intent name 'Insomnia'"),
        ("@ health.insomnia\n", "", r"health\.txt:2: .* outside a block"),
        ("emotions tired anxious\n", "", r"health\.txt:2: .* no 'emotions' line"),
        ("# a comment\n", INSOMNIA + "\n", r"health\.txt:13: health\.insomnia is there twice"),
    ],
)
def test_parser_names_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in INSOMNIA
    with pytest.raises(ValueError, match=message):
        load_dialogues(write(tmp_path, INSOMNIA.replace(old, new, 1)))


def test_parser_needs_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no .txt file"):
        load_dialogues(tmp_path)


# ---- the shipped dialogues


@pytest.fixture(scope="module")
def dialogues() -> Dialogues:
    return load_dialogues()


def plain(text: str) -> str:
    return re.sub("[，。？！]", "", text)


def test_shipped_dialogues_are_many_and_distinct(dialogues: Dialogues) -> None:
    users = [user for intent in dialogues.intents for user in intent.users]
    held = [text for intent in dialogues.intents for text in intent.held]
    for kind in FOLLOWUPS:
        users += dialogues.followups[kind][0]
        held += dialogues.followups[kind][1]
    replies = [
        reply
        for intent in dialogues.intents
        for reply in (*sum(intent.replies.values(), ()), *intent.then.values())
    ]
    for texts, least in ((users, 2000), (held, 300), (replies, 400)):
        distinct = {plain(text) for text in texts}
        assert len(distinct) == len(texts) >= least
    assert not {plain(text) for text in users} & {plain(text) for text in held}


def test_every_emotion_has_a_reply_in_its_style(dialogues: Dialogues) -> None:
    assert set(STYLE_FOR_EMOTION) == set(EMOTIONS) == set(USER_PROSODY)
    assert set(STYLE_FOR_EMOTION.values()) == set(STYLES) == set(STYLE_PROSODY)
    for intent in dialogues.intents:
        for emotion in intent.emotions:
            assert STYLE_FOR_EMOTION[emotion] in intent.replies, (intent.name, emotion)
    assert {intent.scene for intent in dialogues.intents} >= {"health", "education", "assistant"}
    assert {emotion for intent in dialogues.intents for emotion in intent.emotions} == set(EMOTIONS)


# ---- readings


def test_respell_knows_words_and_their_exceptions() -> None:
    assert respell("我睡觉了觉得好") == ["我", "睡", "jiao4", "了", "觉", "得", "好"]
    assert respell("好奇怪，好奇") == ["hao3", "奇", "怪", "，", "hao4", "奇"]
    assert respell("受得了") == ["受", "de5", "liao3"]
    assert respell("爷爷教教我") == ["ye2", "ye2", "jiao1", "jiao1", "我"]


def test_tone_sandhi_of_not_and_one() -> None:
    assert apply_tone_sandhi("不要不想", [4, 4, 4, 3]) == ["bu2", "要", "不", "想"]
    assert apply_tone_sandhi("不一样", [4, 1, 4]) == ["不", "yi2", "样"]
    assert apply_tone_sandhi("一个一起", [1, 5, 1, 3]) == ["yi2", "个", "yi4", "起"]
    assert apply_tone_sandhi("第一次，一", [4, 1, 4, 0, 1]) == list("第一次，一")


# ---- prosody


def pulses(f0: float, seconds: float, level: float) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * k * f0 * time) / k for k in range(1, 8))
    return level * voice / np.sqrt(np.mean(voice**2))


@pytest.mark.parametrize("f0", [80.0, 130.0, 220.0, 330.0])
def test_measure_prosody_of_a_known_tone(f0: float) -> None:
    wave = np.pad(pulses(f0, 2.0, 0.1), SAMPLE_RATE // 2)
    wave += 1e-4 * np.random.default_rng(0).standard_normal(len(wave))
    measure = measure_prosody(wave, SAMPLE_RATE, 8)
    assert measure.f0_hz == pytest.approx(f0, rel=0.02)
    assert measure.f0_spread < 0.5
    assert measure.syllables_per_second == pytest.approx(4.0, rel=0.05)
    assert measure.loudness_db == pytest.approx(-20.0, abs=0.3)


def test_measure_prosody_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="silent"):
        measure_prosody(np.zeros(SAMPLE_RATE), SAMPLE_RATE, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 22050\)"):
        measure_prosody(np.zeros((1, SAMPLE_RATE)), SAMPLE_RATE, 3)
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    assert measure_prosody(noise, SAMPLE_RATE, 3).f0_hz == 0.0


# ---- the synthesiser


def test_voices_are_apart() -> None:
    assert len(HELDOUT_VOICES) == 3
    assert not set(HELDOUT_VOICES) & set(TRAIN_VOICES)
    assert ASSISTANT_VOICE not in TRAIN_VOICES + HELDOUT_VOICES
    rng = np.random.default_rng(0)
    assert {UserSpeaker.sample(rng).voice for _ in range(200)} == set(TRAIN_VOICES)
    assert {UserSpeaker.sample(rng, heldout=True).voice for _ in range(99)} == set(HELDOUT_VOICES)


def test_missing_espeak_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesise.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        speak_assistant("没有它我说不出话。", "warm")


def test_synthesiser_refuses_unknown_arguments() -> None:
    with pytest.raises(ValueError, match="no style 'loud'"):
        speak_assistant("你好", "loud")
    with pytest.raises(ValueError, match="no emotion 'bored'"):
        speak_user("你好", "bored", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no voice 'x1'"):
        speak("你好", "x1", STYLE_PROSODY["warm"])
    with pytest.raises(ValueError, match="without 'K' 'O'"):
        speak("OK", "f2", STYLE_PROSODY["warm"])
    with pytest.raises(ValueError, match="rate is 20"):
        Prosody(pitch=50, pitch_range=50, rate=20, volume=50)


@needs_espeak
def test_speech_is_reproducible_and_clean() -> None:
    wave = speak_assistant("你好，我在听。", "warm")
    speak_user("我好累。", "tired", np.random.default_rng(0))
    np.testing.assert_array_equal(wave, speak_assistant("你好，我在听。", "warm"))
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert np.count_nonzero(wave) == len(wave)
    lead = wave[: round(0.055 * SAMPLE_RATE)]
    assert np.abs(lead).max() < 0.02 * np.abs(wave).max()

    user = speak_user("我好累。", "tired", np.random.default_rng(3), heldout=True)
    again = speak_user("我好累。", "tired", np.random.default_rng(3), heldout=True)
    np.testing.assert_array_equal(user, again)
    assert user.dtype == np.float32
    other = speak_user("我好累。", "tired", np.random.default_rng(4), heldout=True)
    assert len(other) != len(user) or not np.array_equal(other, user)


@needs_espeak
def test_phonemes_are_one_syllable_a_character(dialogues: Dialogues) -> None:
    assert phonemes("你好，觉得好。") == [
        ["n", "i2"], ["X", "Au3"], ["tS;", "yE2"], ["t", "@5"], ["X", "Au3"],
    ]  # fmt: skip
    assert phonemes("睡觉")[1] == ["tS;", "jAu4"]
    assert phonemes("不要") == [["p", "u2"], ["j", "Au4"]]
    texts = [
        text
        for intent in dialogues.intents
        for text in (*intent.users, *intent.held, *intent.then.values())
    ]
    # every character of the dialogues in one go: espeak knows each, and as one syllable
    characters = "".join(sorted({c for text in texts for c in plain(text)}))
    for start in range(0, len(characters), 100):
        assert len(phonemes(characters[start : start + 100])) == len(
            characters[start : start + 100]
        )
    for text in texts[::100]:
        assert len(phonemes(text)) == len(plain(text))


SENTENCES = ("慢慢来，你已经做得很好了。", "先歇一会儿，喝点温水吧。", "我在这儿，你慢慢说。")


def measure(wave: np.ndarray, text: str) -> ProsodyMeasure:
    return measure_prosody(wave, SAMPLE_RATE, len(plain(text)))


@needs_espeak
def test_styles_climb_a_ladder_in_every_measure() -> None:
    ladder = {}
    for style in STYLES:
        waves = [speak_assistant(text, style) for text in SENTENCES]
        assert max(np.abs(wave).max() for wave in waves) < 0.95
        measures = [measure(wave, text) for wave, text in zip(waves, SENTENCES)]
        ladder[style] = np.mean(
            [[m.f0_hz, m.syllables_per_second, m.loudness_db] for m in measures], axis=0
        )
    f0, pace, loudness = np.array([ladder[style] for style in STYLES]).T
    order = {"comforting": 0, "calm": 1, "warm": 2, "encouraging": 3, "cheerful": 4}
    climb = [STYLES.index(style) for style in order]
    assert np.all(f0[climb][1:] / f0[climb][:-1] > 1.08)
    assert np.all(pace[climb][1:] / pace[climb][:-1] > 1.08)
    climb[3:] = climb[:2:-1]  # the loudest is encouraging, not cheerful
    assert np.all(np.diff(loudness[climb]) > 1.5)


@needs_espeak
def test_user_emotions_differ_in_prosody() -> None:
    rng = np.random.default_rng(0)
    text = "我最近在准备一个考试。"
    speaker = UserSpeaker.sample(rng)
    measures = {e: measure(speaker.speak(text, e), text) for e in EMOTIONS}

    def order(attribute: str) -> list[str]:
        return sorted(EMOTIONS, key=lambda e: getattr(measures[e], attribute))

    assert order("syllables_per_second") == ["tired", "sad", "neutral", "happy", "angry", "anxious"]
    assert order("loudness_db")[0] == "sad"
    assert order("loudness_db")[-1] == "angry"
    assert order("f0_hz")[0] == "sad"
    assert set(order("f0_hz")[-2:]) == {"happy", "anxious"}
    assert order("f0_spread")[-1] == "angry"
