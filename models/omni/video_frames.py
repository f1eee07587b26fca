"""A process of its own that decodes a video's pictures.

    python video_frames.py KIND LONGEST RATE < FILE

A few crafted bytes make libav fill gigabytes, work for minutes, or crash. So it has limits, and
whatever ends it is an unreadable file to who started it.

It writes a JSON line, either with "num_frames" and "seconds", or empty where there are no pictures;
then each frame: two little-endian numbers of 32 bits, height and width, and [height, width, 3]
uint8.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np

MAX_MEMORY = 1 << 30  # bytes of address space
MAX_CPU_SECONDS = 60


def main(kind: str, longest: float, rate: int, file: BinaryIO, output: BinaryIO) -> None:
    """Decode what a video shows.

    Args:
        kind: libav's name of the format; nothing else is tried, as playlists open other files.
        longest: seconds; of a longer one no frame is decoded.
        rate: of the frames, a second.
        file: seekable.
        output: gets what the module says.
    """
    file.seek(0)
    with av.open(file, "r", format=kind) as container:
        if not container.streams.video:
            output.write(b"{}\n")
            return
        seconds = _seconds(container)
    num_frames = max(1, round(seconds * rate))
    output.write(json.dumps({"num_frames": num_frames, "seconds": seconds}).encode() + b"\n")
    if seconds > longest:
        return
    file.seek(0)
    with av.open(file, "r", format=kind) as container:
        for frame in _shown(container, num_frames, rate):
            output.write(struct.pack("<II", *frame.shape[:2]) + frame.tobytes())


def _seconds(container: av.container.InputContainer) -> float:
    """From the first picture's time to the last one's end; recorders may not have written it."""
    stream = container.streams.video[0]
    times, longest = [], 0
    for packet in container.demux(stream):
        if packet.pts is not None:
            times.append(packet.pts)
            longest = max(longest, packet.duration or 0)
    if not times or stream.time_base is None:
        return 0.0
    gap = longest or (max(times) - min(times)) // max(1, len(times) - 1)
    return float((max(times) - min(times) + gap) * stream.time_base)


def _shown(
    container: av.container.InputContainer, num_frames: int, rate: int
) -> Iterator[np.ndarray]:
    """What is shown at each of the times, [height, width, 3] uint8."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    first, before, num_given = None, None, 0
    for frame in container.decode(stream):
        time = frame.time or 0.0
        first = time if first is None else first
        while before is not None and num_given < num_frames and time - first > num_given / rate:
            yield _upright(before)
            num_given += 1
        before = frame
    while before is not None and num_given < num_frames:
        yield _upright(before)
        num_given += 1


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """A frame's pixels, turned as the recorder was held."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.stdin.buffer, sys.stdout.buffer)
