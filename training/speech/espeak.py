"""A small part of the users' voices: espeak-ng, which costs next to nothing.

It is given pinyin, for its own dictionary reads many a Chinese character wrongly.
"""

from __future__ import annotations

import shutil
import subprocess

import numpy as np

from . import pinyin
from .teacher import Prosody

# The plain `cmn` voice of espeak-ng 1.51 reads pinyin aloud as English ("zui four"), this one does
# not. Given as a path, espeak need not scan all its voices first.
LANGUAGE = "sit/cmn-Latn-pinyin"
VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
WORDS_A_MINUTE = 160  # at the pace 1
WAV_HEADER = 44  # bytes


def say(text: str, variant: str, prosody: Prosody) -> np.ndarray:
    """Say a text: [T] float32 at 22,050 Hz; gain and tilt are left to the caller.

    Args:
        variant: one of `VARIANTS`.

    Raises:
        ValueError: as `pinyin.words`.
        RuntimeError: espeak-ng is missing or fails.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise RuntimeError("espeak-ng is not installed: apt-get install espeak-ng")
    words = " ".join(" ".join(syllables) or word for word, syllables in pinyin.words(text))
    pitch = int(np.clip(50 + 70 * np.log2(prosody.pitch), 0, 99))
    spread = int(np.clip(50 * prosody.pitch_range, 0, 99))
    rate = int(np.clip(WORDS_A_MINUTE * prosody.rate, 80, 450))
    done = subprocess.run(
        [program, "-m", "-v", f"{LANGUAGE}+{variant}", "-p", str(pitch), "-s", str(rate),
         "-a", "40", "--stdout", "--stdin"],
        input=f'<prosody range="{spread}">{words}</prosody>'.encode(),
        capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"espeak-ng failed on {text!r}: {done.stderr.decode().strip()}")
    # It streams its wav, so the lengths in the header are not to be trusted.
    return np.frombuffer(done.stdout, "<i2", offset=WAV_HEADER).astype(np.float32) / 32768
