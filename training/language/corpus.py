"""Recordings as codes, for the language model: users at microphones, the assistant's replies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.westlake.firefly import FireflyArchitecture

from ..codec.clips import VARIATION
from ..codec.config import TINY_CODEC
from ..dialogues import SILENT, UNCLEAR
from ..files import replacing
from ..speech import perturbation, recordings
from ..speech.recordings import Recording
from ..speech.speakers import SAMPLE_RATE, Microphone, noise, vary

FRAME_SECONDS = TINY_CODEC.samples_per_frame / SAMPLE_RATE
BABBLE_VOICES, BABBLE_RECORDINGS = 4, 400
SOUND_SECONDS = (0.8, 4.0)
SILENCE_DB = (-90.0, -60.0)
REPLY_LEAD_FRAMES = 1  # silent, so that the first character stands before its sound


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One spoken utterance: who says what how, and its codes [K, L] int16.

    `intent` is the intent's name or, for a follow-up question, `follow.<kind>`; `manner` is the
    user's emotion, or `UNTOLD`, or the assistant's style; `onsets` are the frames in which its
    characters begin, punctuation left out; none where nobody knows.
    """

    intent: str
    text: str
    manner: str
    codes: Tensor
    onsets: tuple[int, ...] = ()


def write_users(
    codec: FireflyArchitecture, takes: Path, folder: Path, rounds: int, seed: int
) -> None:
    """Every recorded user, `rounds` times, each time larger or smaller and at another microphone.

    From the second time on it is also as other people might have said it.

    Shards are added for recordings that came since the last time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        (path, folder / f"{takes.name}-{path.stem}-{index}.pt", index)
        for index in range(rounds)
        for path in sorted(takes.glob("*.npz"))
    ]
    for source, path, index in tqdm([s for s in shards if not s[1].exists()], desc=folder.name):
        rng = np.random.default_rng([seed, index, int(source.stem)])
        spoken = []
        for recording in recordings.read_shard(source):
            factor = rng.uniform(*VARIATION)
            heard = Microphone.draw(rng).record(vary(_float(recording), factor))
            codes, frames = _perturbed(codec, heard, rng) if index else (encode(codec, heard), None)
            spoken.append(_spoken(recording, codes, factor, frames=frames))
        _write(path, spoken)


def write_replies(codec: FireflyArchitecture, takes: Path, folder: Path) -> None:
    """Every recorded reply once, as it is, after `REPLY_LEAD_FRAMES` of silence.

    Silence makes its last frame a whole one too: codes of a part of one sound like a faint click.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = TINY_CODEC.samples_per_frame
    lead = REPLY_LEAD_FRAMES * frame
    for source in tqdm(sorted(takes.glob("*.npz")), desc=folder.name):
        path = folder / f"{source.stem}.pt"
        if path.exists():
            continue
        spoken = []
        for recording in recordings.read_shard(source):
            wave = _float(recording)
            wave = np.pad(wave, (lead, -len(wave) % frame))
            spoken.append(_spoken(recording, encode(codec, wave), lead_frames=REPLY_LEAD_FRAMES))
        _write(path, spoken)


def write_sounds(
    codec: FireflyArchitecture, takes: Path, path: Path, number: int, seed: int
) -> None:
    """What nobody can understand: noises, babble, speech played backwards; and silence.

    Half of the sounds are perturbed as users' speech is, which would else be told by that.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    waves = [_float(recording) for recording in islice(recordings.read(takes), BABBLE_RECORDINGS)]
    spoken = []
    for index in tqdm(range(number), desc=path.stem):
        silent = index % 4 == 3
        wave = draw_silence(rng) if silent else draw_sound(waves, rng)
        perturbed = not silent and rng.random() < 0.5
        codes = _perturbed(codec, wave, rng)[0] if perturbed else encode(codec, wave)
        intent = SILENT if silent else UNCLEAR
        spoken.append(Spoken(intent=intent, text="", manner="neutral", codes=codes))
    _write(path, spoken)


def draw_silence(rng: np.random.Generator) -> np.ndarray:
    """A microphone at which nobody speaks: [T] float32."""
    length = round(rng.uniform(*SOUND_SECONDS) * SAMPLE_RATE)
    level = 10 ** (rng.uniform(*SILENCE_DB) / 20)
    return (level * noise(length, bool(rng.random() < 0.5), rng)).astype(np.float32)


def draw_sound(waves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Something unintelligible, [T] float32: noise, tones, babble of `waves`, or one backwards."""
    kind = rng.choice(["noise", "tones", "babble", "backwards"])
    length = round(rng.uniform(*SOUND_SECONDS) * SAMPLE_RATE)
    level = 10 ** (rng.uniform(-45, -18) / 20)
    time = np.arange(length) / SAMPLE_RATE
    if kind == "noise":
        envelope = 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * rng.uniform(0.2, 6) * time)
        wave = noise(length, bool(rng.random() < 0.5), rng) * envelope
    elif kind == "tones":
        pitches = 55 * 2 ** (rng.integers(0, 60, rng.integers(1, 5)) / 12)
        wave = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches)
        wave *= np.exp(-rng.uniform(0, 4) * (time % rng.uniform(0.2, 1.0)))
    elif kind == "babble":
        wave = np.zeros(length)
        for index in rng.integers(len(waves), size=BABBLE_VOICES):
            wave += np.resize(np.roll(waves[index], rng.integers(length)), length)
    else:
        wave = waves[rng.integers(len(waves))][::-1]
    wave = wave * level / np.sqrt(np.mean(wave**2) + 1e-12)
    return Microphone.draw(rng).record(wave.astype(np.float32))


def read_spoken(folder: Path) -> Iterator[Spoken]:
    """What the writers have put into a folder so far."""
    for path in sorted(folder.glob("*.pt")):
        shard = torch.load(path, weights_only=True)
        for (intent, text, manner, onsets), codes in zip(
            shard["lines"], shard["codes"].split(shard["lengths"], dim=1)
        ):
            yield Spoken(intent=intent, text=text, manner=manner, codes=codes, onsets=tuple(onsets))


@torch.no_grad()
def encode(codec: FireflyArchitecture, wave: np.ndarray) -> Tensor:
    """Wave float32 [T] -> codes [K, L] int16, all of L, as the voice loop does."""
    device = next(codec.parameters()).device
    audio = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))[None, None].to(device)
    codes, _ = codec.encode(audio, torch.tensor([len(wave)], device=device))
    return codes[0].short().cpu()


@torch.no_grad()
def _perturbed(
    codec: FireflyArchitecture, wave: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray]:
    """As `encode`, of `perturbation.perturb`, and the frame where each of the wave's went."""
    frame = TINY_CODEC.samples_per_frame
    wave = np.pad(wave, (0, max(0, frame - len(wave))))
    audio = torch.from_numpy(wave)[None, None].to(next(codec.parameters()).device)
    mel, places = perturbation.perturb(codec.spec_transform(audio), rng)
    mel = F.pad(mel, (0, -mel.shape[-1] % TINY_CODEC.mels_per_frame), mode="replicate")
    codes = codec.quantizer.encode(codec.backbone(mel))
    return codes[0].short().cpu(), places[:: TINY_CODEC.mels_per_frame] / TINY_CODEC.mels_per_frame


def _spoken(
    recording: Recording,
    codes: Tensor,
    factor: float = 1.0,
    lead_frames: int = 0,
    frames: np.ndarray | None = None,
) -> Spoken:
    """What a recording says, played `factor` times as fast as it was recorded, after its lead.

    Args:
        frames: where each of its frames is to be found, unless it is in its place.
    """
    line, last = recording.line, codes.shape[1] - 1
    begun = [s / factor / FRAME_SECONDS for s in recording.onsets]
    if frames is not None:
        begun = np.interp(begun, np.arange(len(frames)), frames).tolist()
    onsets = tuple(min(last, lead_frames + int(frame)) for frame in begun)
    is_foreign = line.source == UNCLEAR and not onsets  # phonemes: nothing is to be understood
    text = "" if is_foreign else line.text
    return Spoken(intent=line.source, text=text, manner=line.manner, codes=codes, onsets=onsets)


def _float(recording: Recording) -> np.ndarray:
    return recording.wave.astype(np.float32) / 32768


def _write(path: Path, spoken: list[Spoken]) -> None:
    shard = {
        "lines": [(s.intent, s.text, s.manner, list(s.onsets)) for s in spoken],
        "lengths": [s.codes.shape[1] for s in spoken],
        "codes": torch.cat([s.codes for s in spoken], dim=1),
    }
    with replacing(path) as temporary:
        torch.save(shard, temporary)
