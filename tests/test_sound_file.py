"""Files as phones, pipes and killed recorders make them: all of the speech, or a clear word."""

import io

import numpy as np
import pytest
from sounds import (
    PHONE_FORMATS,
    RATE,
    encoded,
    killed_wav,
    phone_file,
    piped_flac,
    table_first,
    voice,
    written,
)

from models.audio import AudioClip, load_audio
from models.errors import UserError


def code_of(source, **options) -> str:
    """The code of the error that it is refused with."""
    with pytest.raises(UserError) as caught:
        load_audio(source, **options)
    return caught.value.code


def loudness(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """RMS of each 20th of a second."""
    size = sample_rate // 20
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return np.sqrt((frames**2).mean(axis=1))


def assert_sounds_like(clip: AudioClip, samples: np.ndarray) -> None:
    """The same length to a tenth of a second, and as loud at each time; codecs ring and shift."""
    assert clip.seconds == pytest.approx(len(samples) / RATE, abs=0.1)
    heard, expected = loudness(clip.samples.numpy(), clip.sample_rate), loudness(samples, RATE)
    length = min(len(heard), len(expected))
    assert np.corrcoef(heard[2:length], expected[2:length])[0, 1] > 0.85
    assert heard[2:length].mean() == pytest.approx(expected[2:length].mean(), rel=0.3)


@pytest.mark.parametrize("kind", PHONE_FORMATS)
def test_what_phones_record(tmp_path, kind):
    samples = voice(3)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(phone_file(kind, samples))
    clip = load_audio(path)
    assert clip.sample_rate == PHONE_FORMATS[kind][2]
    assert_sounds_like(clip, samples)


def test_a_phones_stereo_is_averaged():
    left, right = voice(2), np.zeros(2 * RATE, np.float32)
    content = encoded(np.stack([left, right]), "ipod", "aac", RATE, "stereo")
    assert_sounds_like(load_audio(io.BytesIO(content)), left / 2)


@pytest.mark.parametrize("kind", ["m4a", "mp4", "3gp", "webm"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_phones_file_that_is_cut_off(kind, share):
    content = phone_file(kind, voice(3))
    assert code_of(io.BytesIO(content[: int(share * len(content))])) == "error_sound_cut_off"


def test_an_m4a_that_begins_with_its_table_and_is_cut_off():
    content = table_first(phone_file("m4a", voice(3)))
    assert_sounds_like(load_audio(io.BytesIO(content)), voice(3))
    assert code_of(io.BytesIO(content[: len(content) // 2])) == "error_sound_cut_off"


def test_an_m4a_that_promises_more_than_its_samples():
    content = bytearray(table_first(phone_file("m4a", voice(3))))
    place = content.index(b"mdat")
    half = (len(content) - place) // 2
    content[place - 4 : place] = (half + 4).to_bytes(4, "big")
    assert code_of(io.BytesIO(content[: place + half])) == "error_sound_cut_off"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_ogg_that_ends_within_a_page(share):
    content = encoded(voice(5), "ogg", "libopus", 48000)
    assert_sounds_like(load_audio(io.BytesIO(content)), voice(5))
    assert code_of(io.BytesIO(content[: int(share * len(content))])) == "error_sound_cut_off"


def test_a_live_webm_does_not_know_its_length():
    content = phone_file("webm", voice(5), live="1")
    assert_sounds_like(load_audio(io.BytesIO(content)), voice(5))


def test_an_mp3_without_a_length_is_heard_to_its_end():
    # Its first frames are small, by which libsndfile would guess the length of the whole.
    samples = np.concatenate([np.zeros(2 * RATE, np.float32), voice(7)])
    content = encoded(samples, "mp3", "libmp3lame", RATE, write_xing="0")
    assert b"Xing" not in content and b"Info" not in content
    assert_sounds_like(load_audio(io.BytesIO(content)), samples)


def test_joined_mp3s_are_heard_to_the_end():
    content = written(voice(3), "MP3")
    clip = load_audio(io.BytesIO(2 * content))
    assert clip.seconds == pytest.approx(6, abs=0.2)


def test_an_mp3_with_a_picture_before_it():
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 7, 0x68]) + bytes(7 * 128 + 0x68)
    content = written(voice(3), "MP3")
    assert_sounds_like(load_audio(io.BytesIO(tag + content)), voice(3))
    assert code_of(io.BytesIO(tag + content[:-100])) == "error_sound_cut_off"


def test_a_flac_from_a_pipe_is_heard_to_its_end():
    samples = voice(9)
    clip = load_audio(io.BytesIO(piped_flac(samples)))
    assert np.abs(clip.samples.numpy() - samples).max() <= 1e-4
    assert len(clip.samples) == len(samples)


@pytest.mark.parametrize("riff_size", [0, 8, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_whose_recorder_was_killed_is_heard_to_its_end(riff_size, subtype):
    samples = voice(2)
    clip = load_audio(io.BytesIO(killed_wav(samples, riff_size, subtype=subtype)))
    whole = load_audio(io.BytesIO(written(samples, "WAV", subtype=subtype)))
    assert np.array_equal(clip.samples.numpy(), whole.samples.numpy())


def test_a_wav_that_says_truly_that_it_is_empty():
    content = bytearray(written(np.zeros(0), "WAV"))
    content += b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    assert code_of(io.BytesIO(content)) == "error_no_samples"


def test_a_wav_of_many_chunks_is_heard_and_told_when_cut_off():
    content = written(voice(1), "WAV")
    chunks = (b"junk" + bytes(4)) * 3000
    content = (
        b"RIFF"
        + (len(content + chunks) - 8).to_bytes(4, "little")
        + b"WAVE"
        + chunks
        + content[12:]
    )
    assert load_audio(io.BytesIO(content)).seconds == 1
    assert code_of(io.BytesIO(content[:-1000])) == "error_sound_cut_off"


def test_a_film_without_sound(tmp_path):
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert code_of(io.BytesIO(buffer.getvalue())) == "error_no_sound_track"
