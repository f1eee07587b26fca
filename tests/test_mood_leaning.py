"""A voice has a say in the emotion that is perceived: what is measured, the file, the reply."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from replying import NUM_FRAMES, SEEDED, reply_to, speech
from safetensors.torch import load_file, save_file
from small_checkpoint import HEARD_TOKENS, new_model, save_small

from models.audio import AudioClip
from models.contract import ReplyOptions
from models.prosody import prosody
from models.westlake.checkpoint import load_checkpoint
from models.westlake.moods import (
    COLOURS,
    MOODS_FILE,
    NUM_FEATURES,
    PACES,
    QUANTILES,
    SAY,
    MoodClassifier,
    features,
    read_moods,
    write_moods,
)
from models.westlake.opinions import DOUBT
from models.westlake.reply import EMOTION_PLACE
from models.westlake.saved_checkpoint import save_quantised
from models.westlake.speech_model import WestlakeModel

RATE = 22_050
CLASSES = ("happy", "sad", "tired")
FIRST_EMOTION = 260  # sad, before happy
MEDIAN, DEVIATION, MOVEMENT = 0, 1 + len(QUANTILES), 2 + len(QUANTILES)


def sung(hertz: float = 150.0, sway: float = 2.0, gain: float = 1.0) -> AudioClip:
    """Two seconds of a voice that sways by so many semitones, in four bursts."""
    time = np.arange(2 * RATE) / RATE
    pitch = hertz * 2 ** (sway * np.sin(2 * np.pi * 1.3 * time) / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 9)) * (0.1 + np.sin(2 * np.pi * time) ** 2)
    return AudioClip(torch.from_numpy(0.1 * gain * wave).float(), RATE)


def measured(clip: AudioClip, num_syllables: int | None = 8) -> torch.Tensor:
    told = features(prosody(clip.samples.numpy(), RATE), num_syllables)
    assert told is not None and told.shape == (NUM_FEATURES,) and told.dtype == torch.float32
    return told


@pytest.fixture
def classifier() -> MoodClassifier:
    torch.manual_seed(0)
    made = MoodClassifier(CLASSES, RATE)
    made.mean.normal_(std=3)
    made.deviation.uniform_(1, 5)
    return made.eval()


def test_a_louder_voice_differs_in_its_loudness_alone():
    quiet, loud = measured(sung()), measured(sung(gain=2.0))
    expected = quiet.clone()
    expected[COLOURS] += 20 * np.log10(2)
    torch.testing.assert_close(loud, expected, rtol=0, atol=0.1)  # bands have a floor


def test_melody_and_pace_are_measured():
    low, high, lively = measured(sung()), measured(sung(hertz=300.0)), measured(sung(sway=4.0))
    assert high[MEDIAN] - low[MEDIAN] == pytest.approx(12, abs=0.1)
    torch.testing.assert_close(high[1:MOVEMENT], low[1:MOVEMENT], rtol=0, atol=0.2)
    assert lively[DEVIATION] / low[DEVIATION] == pytest.approx(2, rel=0.1)
    assert lively[MOVEMENT] / low[MOVEMENT] == pytest.approx(2, rel=0.2)
    slower = measured(sung(), num_syllables=4)
    torch.testing.assert_close(low[PACES], 2 * slower[PACES])
    assert low[PACES].tolist() == pytest.approx([4, 4, 8], rel=0.05)
    uncounted = measured(sung(), num_syllables=None)
    assert uncounted[PACES].isnan().all() and uncounted.isnan().sum() == 3


def test_silence_around_a_voice_tells_nothing():
    rng, clip = np.random.default_rng(0), sung()
    noise = torch.from_numpy(rng.normal(0, 3e-4, 5 * RATE)).float()
    told = measured(AudioClip(clip.samples + noise[: len(clip.samples)], RATE))
    for before, behind, level in ((0.9, 0.6, 1), (1.5, 2.0, 1), (1.5, 2.0, 0)):
        parts = [
            noise[: int(before * RATE)] * level,
            clip.samples,
            noise[: int(behind * RATE)] * level,
        ]
        padded = torch.cat(parts)
        padded[len(parts[0]) :][: len(clip.samples)] += noise[: len(clip.samples)]
        torch.testing.assert_close(measured(AudioClip(padded, RATE)), told, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("wave", [np.zeros(RATE), np.random.default_rng(0).normal(0, 0.1, RATE)])
def test_what_has_no_pitch_tells_no_mood(wave: np.ndarray):
    assert features(prosody(wave, RATE), 8) is None
    assert features(prosody(sung().samples.numpy()[: RATE // 10], RATE), 8) is None


def test_a_pitch_that_comes_and_goes_moves_nowhere():
    curves = prosody(sung().samples.numpy(), RATE)
    curves.pitch[::2] = np.nan
    told = features(curves, 8)
    assert told is not None and told.isfinite().all() and told[MOVEMENT] == 0


def test_an_opinion_is_of_scaled_features_and_rules_nothing_out(classifier):
    told = torch.full((NUM_FEATURES,), 7.0)
    near = ((told - classifier.mean) / classifier.deviation).clamp(-4, 4)
    shares = torch.softmax(classifier.layers(near), dim=0)
    expected = ((1 - DOUBT) * shares + DOUBT / len(CLASSES)).log()
    torch.testing.assert_close(classifier.opinion(told), expected)
    told[PACES] = torch.nan  # as much as the mean
    torch.testing.assert_close(
        classifier.opinion(told), classifier.opinion(told.where(~told.isnan(), classifier.mean))
    )
    with torch.no_grad():
        classifier.layers[-1].bias.copy_(torch.tensor([1e3, 0, 0]))
    rare = torch.tensor([1 - DOUBT + DOUBT / 3, DOUBT / 3, DOUBT / 3])
    torch.testing.assert_close(classifier.opinion(told).exp(), rare, rtol=1e-4, atol=0)


def test_a_file_keeps_it(classifier, tmp_path):
    path = tmp_path / MOODS_FILE
    write_moods(path, classifier)
    read = read_moods(path)
    assert read.classes == CLASSES and read.sample_rate == RATE and not read.training
    assert not any(x.requires_grad for x in read.parameters())
    torch.testing.assert_close(dict(read.state_dict()), dict(classifier.state_dict()))


def test_files_of_something_else_are_refused_by_name(classifier, tmp_path):
    path = tmp_path / MOODS_FILE
    write_moods(path, classifier)
    whole = load_file(path)
    save_file(whole, path)
    with pytest.raises(ValueError, match=f"{MOODS_FILE}: 'classes'"):
        read_moods(path)
    for classes in ("5", '{"a": 1}', "[1]", "[]", "a", '["a"]'):
        save_file(whole, path, {"classes": classes, "sample_rate": "22050"})
        with pytest.raises(ValueError, match=MOODS_FILE):
            read_moods(path)
    classes = {"classes": json.dumps(CLASSES), "sample_rate": "22050"}
    for rate in ({}, {"sample_rate": "high"}):
        save_file(whole, path, {"classes": classes["classes"], **rate})
        with pytest.raises(ValueError, match=MOODS_FILE):
            read_moods(path)
    for key in whole:
        for others in ({}, {key: torch.zeros(2)}, {key: whole[key] * float("nan")}):
            rest = {name: whole[name] for name in whole if name != key}
            save_file({**rest, **others}, path, classes)
            with pytest.raises(ValueError, match=MOODS_FILE):
                read_moods(path)
    save_file({**whole, "deviation": torch.zeros(NUM_FEATURES)}, path, classes)
    with pytest.raises(ValueError, match=f"{MOODS_FILE}: its deviations"):
        read_moods(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="can't be read"):
        read_moods(path)


@pytest.fixture
def folder(small_codec, classifier, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    save_small(folder, new_model(), small_codec, HEARD_TOKENS)
    write_moods(folder / MOODS_FILE, classifier)
    return folder


def test_a_checkpoint_has_it_where_the_file_is(folder, small_codec, classifier, tmp_path):
    checkpoint = load_checkpoint(folder, dtype="float32")
    told = measured(sung())
    leaning = checkpoint.mood_leaning(told) / SAY
    opinion = classifier.opinion(told)
    sad_happy = leaning[FIRST_EMOTION : FIRST_EMOTION + 2]
    torch.testing.assert_close(sad_happy, opinion[[1, 0]])
    assert leaning.shape == (checkpoint.model.config.vocab_size,)
    others = torch.cat([leaning[:FIRST_EMOTION], leaning[FIRST_EMOTION + 2 :]])
    assert (others.exp() * len(CLASSES) - DOUBT).abs().max() < 1e-6
    save_quantised(folder, tmp_path / "int8", "int8")
    assert load_checkpoint(tmp_path / "int8").mood_leaning is not None
    (folder / MOODS_FILE).unlink()
    without = load_checkpoint(folder, dtype="float32")
    assert without.mood_leaning is None and without.fingerprint != checkpoint.fingerprint
    write_moods(folder / MOODS_FILE, classifier)
    save_small(folder, new_model(), small_codec, HEARD_TOKENS)
    assert not (folder / MOODS_FILE).exists()  # of an older one


def test_a_checkpoint_of_other_emotions_is_refused(folder):
    write_moods(folder / MOODS_FILE, MoodClassifier(("sad",), RATE))
    with pytest.raises(ValueError, match=f"{MOODS_FILE}: .*do not know happy"):
        load_checkpoint(folder, dtype="float32")


def test_a_checkpoint_of_another_rate_is_refused(folder):
    write_moods(folder / MOODS_FILE, MoodClassifier(CLASSES, 16_000))
    with pytest.raises(ValueError, match=f"{MOODS_FILE} is for sounds of 16000 Hz"):
        load_checkpoint(folder, dtype="float32")


@pytest.mark.parametrize("text", [None, "Ok!", "?!"])
def test_a_voice_has_its_say_where_the_emotion_is_written(folder, text):
    asked = []

    def lean(told):
        asked.append(told)
        leaning = torch.zeros(model.checkpoint.model.config.vocab_size)
        leaning[FIRST_EMOTION] = 1e4
        return leaning

    model = WestlakeModel(load_checkpoint(folder, dtype="float32"))
    model = WestlakeModel(dataclasses.replace(model.checkpoint, mood_leaning=lean))
    clip = sung()
    assert model.sample_rate == clip.sample_rate
    chunks = reply_to(model, audio=clip, text=text)[0]
    assert chunks[-1].emotion == "sad" and EMOTION_PLACE == 0
    num_syllables = len(chunks[-1].heard.split()) if text is None else None
    torch.testing.assert_close(asked, [measured(clip, num_syllables)], equal_nan=True)
    # However it comes, it tells the same.
    turn = model.new_conversation().begin_turn(text, RATE)
    for piece in clip.samples.split(1000):
        turn.push(piece)
    turn.finish()
    for _ in turn.conversation.reply(turn, ReplyOptions(sampling=SEEDED, max_frames=NUM_FRAMES)):
        pass
    torch.testing.assert_close(asked[1], asked[0], rtol=1e-4, atol=1e-3, equal_nan=True)
    asked.clear()
    reply_to(model, text="Ok!")
    reply_to(model, audio=speech(1.0), text=text)  # noise
    assert not asked


@pytest.mark.parametrize("known", [True, False])
def test_a_voice_is_not_asked_where_its_words_are_of_nothing(folder, known):
    class Topics:
        def __call__(self, kind, symbols):
            return torch.zeros(model.checkpoint.model.config.vocab_size)

        def knows(self, kind, symbols):
            return known

    def lean(told):
        asked.append(told)
        return torch.zeros(model.checkpoint.model.config.vocab_size)

    asked = []
    model = load_checkpoint(folder, dtype="float32")
    model = WestlakeModel(dataclasses.replace(model, mood_leaning=lean, topic_leaning=Topics()))
    reply_to(model, audio=sung(), text="Ok!")
    reply_to(model, audio=sung())
    assert len(asked) == (2 if known else 0)
