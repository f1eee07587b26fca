"""Voices, microphones and noises."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from training.dialogues import EMOTIONS, STYLES
from training.speech import speakers, teacher
from training.speech.prosody import measure_prosody
from training.speech.speakers import (
    HELDOUT_BLENDS,
    HELDOUT_DISTANCE,
    HELDOUT_VOICES,
    PEOPLE,
    SAMPLE_RATE,
    SPEECH_DB,
    STYLE_PROSODY,
    USER_PROSODY,
    VOICE_HZ,
    Microphone,
    Speaker,
    assistant,
    check_voices,
    draw_other_user,
    draw_plain_user,
    draw_user,
    noise,
    tilt,
)

NAMES = ["af_sky", "am_onyx", "bm_lewis", "jf_alpha", "zf_xiaoyi", "zf_xiaoni", "zm_yunxi"]


def distance(blend: Mapping[str, float]) -> float:
    shares = np.array([blend.get(name, 0) for name in VOICE_HZ])
    return np.abs(HELDOUT_BLENDS - shares).sum(axis=1).min()


def test_held_out_blends_are_never_near():
    np.testing.assert_allclose(HELDOUT_BLENDS.sum(axis=1), 1)
    rng = np.random.default_rng(0)
    for _ in range(400):
        user = draw_user(rng)
        for blend in (user.timbre, user.melody):
            assert distance(blend) > HELDOUT_DISTANCE
            assert sum(blend.values()) == pytest.approx(1) and min(blend.values()) >= 0
        held = draw_user(rng, heldout=True)
        assert distance(held.timbre) == distance(held.melody) == 0
    assert distance(assistant().timbre) > HELDOUT_DISTANCE


def test_a_plain_user_is_a_blend_and_nothing_else():
    rng = np.random.default_rng(0)
    for heldout in (False, True) * 50:
        user = draw_plain_user(rng, heldout)
        assert user.timbre == user.melody
        assert user.pitch == user.size == user.rate == 1
        assert (distance(user.timbre) == 0) == heldout


def test_people_are_of_all_kinds_and_the_same_seed_is_the_same_person():
    assert draw_user(np.random.default_rng(5)) == draw_user(np.random.default_rng(5))
    users = [draw_user(np.random.default_rng(seed)) for seed in range(300)]
    hertz = [
        user.pitch * np.exp(sum(s * np.log(VOICE_HZ[name]) for name, s in user.melody.items()))
        for user in users
    ]
    lowest = min(low for (low, _), *_ in PEOPLE.values())
    highest = max(high for (_, high), *_ in PEOPLE.values())
    assert lowest <= min(hertz) < 110 and 280 < max(hertz) <= highest
    low, high = (np.mean([u.size for u, hz in zip(users, hertz) if a < hz < b]) for a, b in
                 ((0, 150), (280, 400)))  # fmt: skip
    assert low < 0.95 < 1.05 < high  # who speaks high is small


def test_other_users_have_all_of_kokoros_voices_but_those_of_the_evaluation():
    assert draw_other_user(np.random.default_rng(5), NAMES) == draw_other_user(
        np.random.default_rng(5), NAMES
    )
    users = [draw_other_user(np.random.default_rng(seed), NAMES) for seed in range(200)]
    blends = [blend for user in users for blend in (user.timbre, user.melody)]
    assert {name for blend in blends for name in blend} == set(NAMES) - set(HELDOUT_VOICES)
    assert all(sum(blend.values()) == pytest.approx(1) for blend in blends)
    assert {len(blend) for blend in blends} == {1, 2, 3}
    native = np.mean([sum(s for n, s in blend.items() if n[0] == "z") for blend in blends])
    assert 0.5 < native < 0.7
    held = [draw_other_user(np.random.default_rng(seed), NAMES, True) for seed in range(50)]
    for blends in ([user.timbre for user in held], [user.melody for user in held]):
        assert {name for blend in blends for name in blend} == set(HELDOUT_VOICES)


def test_a_folder_of_voices_is_checked(tmp_path: Path):
    def put(*names: str, size: int = teacher.TABLE_BYTES) -> None:
        for name in names:
            (tmp_path / f"{name}.bin").write_bytes(bytes(size))

    def told() -> str:
        with pytest.raises(ValueError, match="kokoro-js") as caught:
            check_voices(tmp_path)
        return str(caught.value)

    assert "lacks am_onyx, bf_lily" in told()
    put("zf_xiaoni", *HELDOUT_VOICES[1:])
    assert "lacks am_onyx:" in told()
    put("am_onyx")
    check_voices(tmp_path)
    put("af_sky", size=250)
    assert "af_sky.bin is no table" in told()
    (tmp_path / "zf_xiaoni.bin").unlink()
    assert "lacks voices of Mandarin" in told()


def test_the_assistant_has_one_voice():
    voice = assistant()
    assert voice == assistant() and voice.timbre == voice.melody
    assert (
        sum(voice.timbre.values()) == pytest.approx(1)
        and voice.pitch == voice.size == voice.rate == 1
    )


def test_prosody_is_asked_of_the_teacher_as_the_voice_and_the_manner_want_it(
    made_up_teacher, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def say(text, timbre, melody, prosody, voices):
        asked.append((timbre, melody, prosody))
        return made_up_teacher(text, timbre, melody, prosody)

    monkeypatch.setattr("training.speech.teacher.say", say)
    blends = {"timbre": {"jf_alpha": 0.6, "jm_kumo": 0.4}, "melody": {"jf_nezumi": 1.0}}
    small = Speaker(**blends, pitch=1.5, size=1.25, rate=0.9)
    wave, onsets = small.say("你好吗", USER_PROSODY["happy"])
    (timbre, melody, prosody), happy = asked[0], USER_PROSODY["happy"]
    assert {"timbre": timbre, "melody": melody} == blends
    # Played faster, the wave is higher and shorter: the teacher is asked for less of both.
    assert prosody.pitch == pytest.approx(happy.pitch * 1.5 / 1.25)
    assert prosody.rate == pytest.approx(happy.rate * 0.9 / 1.25)
    assert measure_prosody(wave, SAMPLE_RATE, 3).f0_hz == pytest.approx(
        200 * happy.pitch * 1.5, rel=0.03
    )
    assert wave.dtype == np.float32 and len(onsets) == 3
    np.testing.assert_allclose(np.diff(onsets), 0.15 / (happy.rate * 0.9), rtol=0.01)
    lead = wave[: round(0.05 * SAMPLE_RATE)]
    assert np.abs(lead).max() < 0.02 * np.abs(wave).max()


def test_loudness_is_that_of_the_manner(made_up_teacher):
    for prosody in (*STYLE_PROSODY.values(), *USER_PROSODY.values()):
        wave, _ = assistant().say("慢慢来，会好的。", prosody)
        level = 20 * np.log10(np.sqrt(np.mean(wave**2)))
        assert level == pytest.approx(SPEECH_DB + prosody.gain_db, abs=0.5)


def test_manners_differ_in_every_measure():
    assert set(USER_PROSODY) == set(EMOTIONS) and set(STYLE_PROSODY) == set(STYLES)
    ladder = [STYLE_PROSODY[s] for s in ("comforting", "calm", "warm", "encouraging", "cheerful")]
    for name in ("pitch", "rate", "pitch_range"):
        values = [getattr(prosody, name) for prosody in ladder]
        assert all(high > 1.03 * low for low, high in zip(values, values[1:])), name

    def order(name: str) -> list[str]:
        return sorted(EMOTIONS, key=lambda emotion: getattr(USER_PROSODY[emotion], name))

    assert order("rate") == ["tired", "sad", "neutral", "happy", "angry", "anxious"]
    assert order("gain_db")[-1] == order("pitch_range")[-1] == "angry"
    assert order("pitch")[:2] == ["tired", "sad"] and order("pitch")[-1] == "anxious"


def voice(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * 150 * n * time) / n for n in range(1, 60))
    return (0.1 * wave * (1 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def test_a_microphone_keeps_the_length_and_is_seeded():
    wave = voice(0.7)
    rng = np.random.default_rng(0)
    heard = []
    for _ in range(40):
        microphone = Microphone.draw(rng)
        recorded = microphone.record(wave.copy())
        assert recorded.shape == wave.shape and recorded.dtype == np.float32
        assert np.isfinite(recorded).all() and np.abs(recorded).max() <= 1
        np.testing.assert_array_equal(recorded, microphone.record(wave.copy()))
        # What is said is still the loudest in it.
        assert np.abs(np.correlate(recorded, wave, "same")).max() > 0
        heard.append(recorded)
    assert not any(np.array_equal(a, b) for a, b in zip(heard, heard[1:]))


def test_a_telephone_lets_a_band_through_and_a_room_rings():
    plain = {"gain_db": 0, "snr_db": 60, "pink": False, "room_db": -10, "tilt_db": 0, "seed": 1}
    near = Microphone(**plain, room_seconds=0.0, band_hz=(20, 11e3))
    phone = Microphone(**plain, room_seconds=0.0, band_hz=(300, 3400))
    room = Microphone(**plain, room_seconds=0.5, band_hz=(20, 11e3))
    wave = np.pad(voice(0.5), (0, SAMPLE_RATE // 2))

    def high(x: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(x)) ** 2
        return power[round(5000 * len(x) / SAMPLE_RATE) :].sum() / power.sum()

    assert high(phone.record(wave)) < 0.1 * high(near.record(wave))
    tail = slice(round(0.55 * SAMPLE_RATE), round(0.7 * SAMPLE_RATE))
    assert np.std(room.record(wave)[tail]) > 10 * np.std(near.record(wave)[tail])


def test_a_silent_wave_stays_finite():
    microphone = Microphone.draw(np.random.default_rng(3))
    assert np.isfinite(microphone.record(np.zeros(4000, np.float32))).all()


@pytest.mark.parametrize("pink", [False, True])
def test_noise_has_the_level_1_and_its_colour(pink: bool):
    wave = noise(40_000, pink, np.random.default_rng(0))
    assert len(wave) == 40_000 and np.sqrt(np.mean(wave**2)) == pytest.approx(1)
    power = np.abs(np.fft.rfft(wave)) ** 2
    ratio = power[1000:2000].mean() / power[10_000:20_000].mean()
    assert ratio == pytest.approx(10 if pink else 1, rel=0.2)


def test_a_tilt_raises_what_is_high():
    wave = noise(20_000, False, np.random.default_rng(0)).astype(np.float32)
    power = [np.abs(np.fft.rfft(x)) ** 2 for x in (wave, tilt(wave, 6.0))]
    low, high = slice(0, 800), slice(4000, 9000)
    assert power[1][high].mean() / power[0][high].mean() == pytest.approx(10**0.6, rel=0.05)
    assert power[1][low].mean() / power[0][low].mean() == pytest.approx(1, rel=0.05)
    assert tilt(wave, 0.0) is wave


def test_a_voice_is_varied_by_its_speed(made_up_teacher):
    wave = voice(1.0)
    larger = speakers.vary(wave, 0.9)
    assert len(larger) == pytest.approx(len(wave) / 0.9, abs=1)
    assert measure_prosody(larger, SAMPLE_RATE, 1).f0_hz == pytest.approx(135, rel=0.02)
