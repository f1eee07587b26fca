"""When the assistant says each syllable: espeak-ng's library tells, its program doesn't.

What the library says depends on what it said before; a process of its own gives each line the
program's samples.
"""

import ctypes
import ctypes.util
from collections.abc import Sequence

import numpy as np

from .synthesise import ASSISTANT_VOICE, LANGUAGE, SAMPLE_RATE, STYLE_PROSODY, VOICES, spelling

Span = tuple[int, int]

# From espeak-ng's speak_lib.h
_SYNCHRONOUS, _IPA_PHONEME_EVENTS, _UTF8_AND_SSML = 2, 3, 0x11
_RATE, _VOLUME, _PITCH = 1, 2, 3
_END, _WORD, _PHONEME = 0, 1, 7


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # a phoneme's name; empty at the end of a word and in a pause
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def speak_timed(text: str, style: str) -> tuple[np.ndarray, list[Span]]:
    """Say `text` as the assistant does in `style`, a key of `STYLE_PROSODY`.

    Returns:
        [T] float32 at 22,050 Hz, and the (first sample, end) of each Chinese character.
    Raises:
        RuntimeError: espeak-ng's library is missing.
        ValueError: a character that is not allowed.
    """
    words = spelling(text)
    name = ctypes.util.find_library("espeak-ng")
    if name is None:
        raise RuntimeError("the library of espeak-ng is missing: apt-get install espeak-ng")
    library = ctypes.CDLL(name)
    pieces: list[np.ndarray] = []
    events: list[tuple[int, int, bytes]] = []

    def hear(wave, length, event) -> int:
        index = 0
        while event[index].type != _END:
            if (kind := event[index].type) in (_WORD, _PHONEME):
                events.append(
                    (kind, event[index].sample, event[index].id if kind == _PHONEME else b"")
                )
            index += 1
        if wave and length > 0:
            pieces.append(np.ctypeslib.as_array(wave, (length,)).copy())
        return 0

    callback = _Callback(hear)
    if library.espeak_Initialize(_SYNCHRONOUS, 0, None, _IPA_PHONEME_EVENTS) != SAMPLE_RATE:
        raise RuntimeError("espeak-ng did not start: apt-get install --reinstall espeak-ng-data")
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(f"{LANGUAGE}+{ASSISTANT_VOICE}".encode())
    prosody = STYLE_PROSODY[style]
    library.espeak_SetParameter(_PITCH, prosody.pitch + VOICES[ASSISTANT_VOICE].pitch_shift, 0)
    library.espeak_SetParameter(_RATE, prosody.rate, 0)
    library.espeak_SetParameter(_VOLUME, prosody.volume, 0)
    ssml = f'<prosody range="{prosody.pitch_range}">{words}</prosody>'.encode()
    library.espeak_Synth(ssml, ctypes.c_size_t(len(ssml) + 1), 0, 1, 0, _UTF8_AND_SSML, None, None)
    gain = np.float32(10 ** (VOICES[ASSISTANT_VOICE].gain_db / 20) / 32768)
    return np.concatenate(pieces).astype(np.float32) * gain, _spans(events)


def _spans(events: Sequence[tuple[int, int, bytes]]) -> list[Span]:
    """Of the words, which are syllables here: from each one's event to its last phoneme's end."""
    spans = []
    for index, (kind, start, _) in enumerate(events):
        if kind == _WORD:
            phonemes = [event for event in events[index + 1 :] if event[0] == _PHONEME]
            if phonemes and phonemes[0][2]:  # a word without phonemes stands before a pause
                spans.append((start, next(at for _, at, name in phonemes if not name)))
    return spans
