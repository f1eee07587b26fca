"""Sound files as phones and recorders make them."""

import io
import struct

import av
import numpy as np
import soundfile

RATE = 44100
# Each kind of file a phone makes: container, codec, and the rate the codec works at.
PHONE_FORMATS = {
    "m4a": ("ipod", "aac", 44100),
    "mp4": ("mp4", "aac", 44100),
    "webm": ("webm", "libopus", 48000),
    "aac": ("adts", "aac", 44100),
    "3gp": ("3gp", "libopencore_amrnb", 8000),
    "amr": ("amr", "libopencore_amrnb", 8000),
}


def voice(seconds: float, sample_rate: int = RATE) -> np.ndarray:
    """A tone of 220 Hz, float32 [T], three times a second loud and soft."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    swell = 0.3 + 0.2 * np.sin(2 * np.pi * 3 * times)
    return (swell * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def encoded(
    samples: np.ndarray,
    container: str,
    codec: str,
    rate: int,
    layout: str = "mono",
    **options: str,
) -> bytes:
    """A file of [T] or [channels, T] float32 at `RATE`, by libav; options are its container's."""
    buffer = io.BytesIO()
    frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
    frame.sample_rate = RATE
    with av.open(buffer, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(
            stream.codec_context.format.name, layout, rate, stream.codec_context.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def phone_file(kind: str, samples: np.ndarray, **options: str) -> bytes:
    return encoded(samples, *PHONE_FORMATS[kind], **options)


def written(samples: np.ndarray, format: str, sample_rate: int = RATE, **options: str) -> bytes:
    """A file of [T] or [T, channels], by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=format, **options)
    return buffer.getvalue()


def piped_flac(samples: np.ndarray) -> bytes:
    """A flac whose header doesn't know the number of samples."""
    content = bytearray(written(samples, "FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def killed_wav(samples: np.ndarray, riff_size: int = 0, **options: str) -> bytes:
    """A wav whose recorder had no time to write the lengths."""
    content = bytearray(written(samples, "WAV", **options))
    data = content.index(b"data")
    content[4:8] = struct.pack("<I", riff_size)
    content[data + 4 : data + 8] = bytes(4)
    return bytes(content)


def table_first(content: bytes) -> bytes:
    """An m4a whose table was written behind its samples, with the table in front of them."""
    start, table = content.index(b"mdat") - 4, content.index(b"moov") - 4
    moved = bytearray(content[table:])
    place = moved.index(b"stco") + 8
    num_chunks = int.from_bytes(moved[place : place + 4], "big")
    for entry in range(place + 4, place + 4 + 4 * num_chunks, 4):
        offset = int.from_bytes(moved[entry : entry + 4], "big") + len(moved)
        moved[entry : entry + 4] = offset.to_bytes(4, "big")
    return content[:start] + moved + content[start:table]


def bombed_m4a(num_samples: int, duration: int) -> bytes:
    """A small m4a whose tables promise samples of one byte each, without end."""
    content = bytearray(phone_file("m4a", voice(1)))
    for name, values in {
        b"stsz": (1, num_samples),
        b"stsc": (1, 1, num_samples, 1),
        b"stts": (1, num_samples, duration),
    }.items():
        place = content.index(name) + 8
        content[place : place + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    return bytes(content)
