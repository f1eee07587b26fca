"""A process of its own that decodes one sound file by libav: `python libav_decoder.py KIND < FILE`.

A few crafted bytes make libav fill gigabytes, work for minutes, or crash. So it has limits, and
whatever ends it is an unreadable file to who started it.

It writes a JSON line, then blocks: two little-endian numbers of 32 bits, samples n and channels,
and [n, channels] float32. After the last one comes a block of no samples.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np

MAX_MEMORY = 512 << 20  # bytes of address space, of which the libraries take half
MAX_CPU_SECONDS = 20  # ten minutes of sound take three
MAX_BAD_PACKETS = 0.1  # of all; a recording that begins or ends within one has one or two


def main(kind: str, file: BinaryIO, output: BinaryIO) -> None:
    """Decode the first sound track of a file.

    Args:
        kind: libav's name of the format; nothing else is tried, as playlists open other files.
        file: seekable.
        output: gets what the module says; the line has either "sample_rate", "num_channels" and
            "seconds", which is None where the file doesn't know, or "fault", a key of the
            strings files.
    """
    file.seek(0)  # the process that gave it may have left it anywhere
    with av.open(file, "r", format=kind) as container:
        if not container.streams.audio:
            _write_line(output, {"fault": "error_no_sound_track"})
            return
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        frames = _frames(container, stream)
        first = next(frames, None)
        if first is None:
            _write_line(output, {"fault": "error_no_samples"})
            return
        seconds = None
        if kind == "mov" and stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        about = {
            # A codec's header may name half the rate of what it gives, a frame doesn't.
            "sample_rate": first.sample_rate,
            "num_channels": first.layout.nb_channels,
            "seconds": seconds,
        }
        _write_line(output, about)
        for frame in chain([first], frames):
            if frame.sample_rate != first.sample_rate:
                return
            samples = frame_samples(frame)
            output.write(struct.pack("<II", *samples.shape) + samples.tobytes())
        output.write(struct.pack("<II", 0, 0))


def _write_line(output: BinaryIO, about: dict[str, Any]) -> None:
    output.write(json.dumps(about).encode() + b"\n")


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[av.AudioFrame]:
    num_bad = 0
    for num_packets, packet in enumerate(container.demux(stream), 1):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            num_bad += 1
            if num_bad > max(2, MAX_BAD_PACKETS * num_packets):
                raise


def frame_samples(frame: av.AudioFrame) -> np.ndarray:
    """[n, channels] float32, full scale 1."""
    samples: np.ndarray = frame.to_ndarray()
    num_channels = frame.layout.nb_channels
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, num_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.kind == "u":  # 8 bits
        return (samples.astype(np.float32) - 128) / 128
    return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
