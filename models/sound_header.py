"""What the bytes of a sound file tell before it is decoded: its kind, and how long it should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

UNKNOWN_WAV_BYTES = 0x7FFFF000  # a wav written to a pipe gives such a length, or more, as its own
MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MAX_OGG_PAGE = 27 + 255 + 255 * 255
MAX_CHUNKS = 10_000  # of a wav, and boxes of an mp4, looked at; minutes in fragments have thousands


def sound_kind(file: BinaryIO) -> str | None:
    """libav's name of a file's format; None: libsndfile shall read it."""
    file.seek(_id3_size(file))
    start = file.read(12)
    if start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE0 == 0xE0:
        return "aac" if start[1] & 0xF6 == 0xF0 else "mp3"
    if start[:4] == EBML:
        return "matroska"
    if start[:5] == b"#!AMR":
        return "amr"
    if start[4:8] in MOV_BOXES:
        return "mov"
    if start[:4] == b"fLaC" and not _flac_samples(file):
        return "flac"  # libsndfile fails at the end of one that doesn't know its length
    for name, promised, present in _wav_chunks(file):
        if name == b"data" and promised == 0 and present > 0:
            whole = int.from_bytes(start[4:8], "little") + 8 == _size(file)
            return None if whole else "wav"  # its recorder was killed before it wrote the lengths
    return None


def promised_bytes(file: BinaryIO) -> tuple[int, int]:
    """The bytes that a file should have from some place on, and those that it has.

    Where nothing is promised, both are 0.
    """
    file.seek(0)
    start = file.read(12)
    if start[:4] == EBML:
        return _matroska_bytes(file)
    if start[4:8] in MOV_BOXES:
        return _mov_bytes(file)
    if start[:4] == b"OggS":
        return _ogg_bytes(file)
    for name, promised, present in _wav_chunks(file):
        if name == b"data" and promised < UNKNOWN_WAV_BYTES:
            return promised, present
    head = _mp3_head(file)
    _, num_bytes = _mp3_promises(head)
    return (num_bytes, _size(file) - _id3_size(file)) if num_bytes else (0, 0)


def mp3_samples(file: BinaryIO) -> int | None:
    """The samples in each channel that an mp3's first frame promises, if it does."""
    head = _mp3_head(file)
    num_frames, _ = _mp3_promises(head)
    return num_frames * (1152 if head[1] & 0x08 else 576) if num_frames else None


def _size(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def _id3_size(file: BinaryIO) -> int:
    """The bytes of a tag before an mp3's sound; it may hold a picture."""
    file.seek(0)
    tag = file.read(10)
    if tag[:3] != b"ID3" or len(tag) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(tag[6:]))


def _mp3_head(file: BinaryIO) -> bytes:
    file.seek(_id3_size(file))
    return file.read(64)


def _mp3_promises(head: bytes) -> tuple[int, int]:
    """The frames and bytes that an mp3 begins with instead of sound; 0 where they are unknown."""
    tag = max(head.find(b"Xing"), head.find(b"Info"))
    if tag < 0 or head[:1] != b"\xff":
        return 0, 0
    flags, first, second = (int.from_bytes(head[tag + i : tag + i + 4], "big") for i in (4, 8, 12))
    return (first if flags & 1 else 0), (second if flags & 3 == 3 else 0)


def _flac_samples(file: BinaryIO) -> int:
    file.seek(18)
    return int.from_bytes(file.read(8), "big") & ((1 << 36) - 1)


def _wav_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Up to a wav's samples: each chunk's name, the bytes it promises and those from there on."""
    size = _size(file)
    file.seek(0)
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        name, promised = header[:4], int.from_bytes(header[4:], "little")
        yield name, promised, size - file.tell()
        if name == b"data":
            return
        file.seek(promised + promised % 2, os.SEEK_CUR)


def _mov_bytes(file: BinaryIO) -> tuple[int, int]:
    """To the end of the last box; nothing where there are more than can be looked at."""
    size = _size(file)
    place = 0
    for _ in range(MAX_CHUNKS):
        if place + 8 > size:
            return place, size
        file.seek(place)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: to the end of the file
            return 0, 0
        place += length
    return 0, 0


def _matroska_bytes(file: BinaryIO) -> tuple[int, int]:
    """To the end of the segment, in which all is; a live recording doesn't know it."""
    file.seek(len(EBML))
    header_size, _ = _ebml_size(file)
    file.seek(header_size, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0, 0
    length, known = _ebml_size(file)
    return (file.tell() + length, _size(file)) if known else (0, 0)


def _ebml_size(file: BinaryIO) -> tuple[int, bool]:
    """A number whose first bits say how many bytes it has; all ones mean that it is unknown."""
    first = file.read(1) or b"\0"
    num_bytes = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(num_bytes - 1), "big") & ((1 << 7 * num_bytes) - 1)
    return value, value != (1 << 7 * num_bytes) - 1


def _ogg_bytes(file: BinaryIO) -> tuple[int, int]:
    """To the end of the last page."""
    size = _size(file)
    start = file.seek(max(0, size - MAX_OGG_PAGE))
    tail = file.read()
    place = tail.rfind(b"OggS")
    segments = tail[place + 27 : place + 27 + tail[place + 26]] if place + 26 < len(tail) else b""
    return start + place + 27 + len(segments) + sum(segments), size
