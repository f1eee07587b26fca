"""Dialogues -> speech for the codec, and codes for the language model.

Speech is made afresh wherever it is needed and stays in the recipe's work folder. Codes lie there
in shards, so that more renditions can be added at any time: what was made is never overwritten.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.westlake.firefly import FireflyArchitecture

from .dialogues import EMOTIONS, STYLES, Dialogues, Intent
from .pitch import FRAME, lock_pitch
from .synthesise import NOISE_FLOOR, SAMPLE_RATE, speak_assistant, speak_user

PLAUSIBLE_EMOTION = 0.7  # share of utterances spoken in an emotion that their words suggest
ASSISTANT_SHARE = 0.45  # of the codec's training speech
LOCKED_ASSISTANT_SHARE = 0.45  # of the vocoder's
SHARD_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One spoken utterance: who says what how, and its codes [K, L] int16.

    `intent` is the intent's name or, for a follow-up question, `follow.<kind>`; `manner` is the
    user's emotion or the assistant's style. Of a reply, `onsets` are the frames in which its
    characters begin, punctuation left out, and `syllables` what is heard in each frame, "" where
    nothing is.
    """

    intent: str
    text: str
    manner: str
    codes: Tensor
    onsets: Sequence[int] = ()
    syllables: Sequence[str] = ()


def draw_emotion(intent: Intent | None, rng: np.random.Generator) -> str:
    """A user emotion, mostly one that the intent's words suggest; any for a follow-up."""
    if intent is not None and rng.random() < PLAUSIBLE_EMOTION:
        return str(rng.choice(intent.emotions))
    return str(rng.choice(EMOTIONS))


def user_lines(dialogues: Dialogues, heldout: bool) -> list[tuple[str, str, Intent | None]]:
    """Everything a user may say, as (intent name, text, intent)."""
    lines = [
        (intent.name, text, intent)
        for intent in dialogues.intents
        for text in (intent.held if heldout else intent.users)
    ]
    for kind, (users, held) in dialogues.followups.items():
        lines += [(f"follow.{kind}", text, None) for text in (held if heldout else users)]
    return lines


def reply_lines(dialogues: Dialogues) -> list[tuple[str, str]]:
    """Everything the assistant may say, as (intent name, text)."""
    return [
        (intent.name, text)
        for intent in dialogues.intents
        for texts in (*intent.replies.values(), tuple(intent.then.values()))
        for text in texts
    ]


def _draw_lines(
    dialogues: Dialogues, heldout: bool, assistant_share: float, rng: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Lines without end, as (text, assistant's style or user's emotion)."""
    users = user_lines(dialogues, heldout)
    replies = [line[:2] for line in users] if heldout else reply_lines(dialogues)
    while True:
        if rng.random() < assistant_share:
            yield replies[rng.integers(len(replies))][1], str(rng.choice(STYLES))
        else:
            _, text, intent = users[rng.integers(len(users))]
            yield text, draw_emotion(intent, rng)


def write_speech(
    dialogues: Dialogues, path: Path, minutes: float, seed: int, heldout: bool = False
) -> Path:
    """A long recording of users and assistant in turn, int16 at 22,050 Hz, for the codec.

    Held out: held-out utterances in held-out voices, in which the assistant speaks them too.
    """
    rng = np.random.default_rng(seed)
    draw = _draw_lines(dialogues, heldout, ASSISTANT_SHARE, rng)
    pieces: list[np.ndarray] = []
    wanted = round(minutes * 60 * SAMPLE_RATE)
    bar = tqdm(total=round(minutes * 60), unit="s", desc=path.stem)
    while sum(map(len, pieces)) < wanted:
        for text, manner in islice(draw, 50):
            if manner in STYLES:
                wave = speak_assistant(text, manner)
            else:
                wave = speak_user(text, manner, rng, heldout=heldout)
            pieces.append((np.clip(wave, -1, 1) * 32767).astype(np.int16))
        bar.update(round(sum(map(len, pieces)) / SAMPLE_RATE) - bar.n)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(pieces))
    return path


def write_locked(
    codec: FireflyArchitecture,
    dialogues: Dialogues,
    path: Path,
    minutes: float,
    seed: int,
    heldout: bool = False,
    workers: int = 1,
) -> None:
    """Speech with its pitch locked to the codec's frames, for the vocoder to speak.

    The file holds the `wave` int16 [L * samples per frame], and `codes` int16 [2, K, L]: of the
    speech as it was, and of the wave. Held out is what `write_speech` holds out.
    """
    rng = np.random.default_rng(seed)
    draw = _draw_lines(dialogues, heldout, LOCKED_ASSISTANT_SHARE, rng)
    waves: list[np.ndarray] = []
    codes: list[Tensor] = []
    bar = tqdm(total=round(minutes * 60), unit="s", desc=path.stem)
    with ProcessPoolExecutor(workers) as pool:
        while sum(map(len, waves)) < minutes * 60 * SAMPLE_RATE:
            jobs = [(*line, int(rng.integers(2**31)), heldout) for line in islice(draw, 32)]
            for pair in pool.map(_lock_job, jobs, chunksize=4):
                codes.append(torch.stack([encode(codec, wave) for wave in pair]))
                waves.append((np.clip(pair[1], -1, 1) * 32767).astype(np.int16))
            bar.update(round(sum(map(len, waves)) / SAMPLE_RATE) - bar.n)
    wave = torch.from_numpy(np.concatenate(waves))
    torch.save({"wave": wave, "codes": torch.cat(codes, dim=2)}, path)


def write_users(
    codec: FireflyArchitecture,
    dialogues: Dialogues,
    folder: Path,
    rounds: int,
    seed: int,
    heldout: bool = False,
    workers: int = 1,
) -> None:
    """Every user line, `rounds` times in fresh voices and emotions, as shards of codes."""
    rng = np.random.default_rng(seed)
    jobs = []
    for _ in range(rounds):
        for name, text, intent in user_lines(dialogues, heldout):
            jobs.append((name, text, draw_emotion(intent, rng), int(rng.integers(2**31)), heldout))
    rng.shuffle(jobs)
    jobs = [(str(n), str(t), str(e), int(s), heldout) for n, t, e, s, _ in jobs]
    folder.mkdir(parents=True, exist_ok=True)
    shards = [jobs[i : i + SHARD_SIZE] for i in range(0, len(jobs), SHARD_SIZE)]
    with ProcessPoolExecutor(workers) as pool:
        for index, shard in enumerate(tqdm(shards, desc=folder.name, unit="shard")):
            path = folder / f"{seed}-{index:04d}.pt"
            if path.exists():
                continue
            names, texts, manners, waves = zip(*pool.map(_speak_user_job, shard, chunksize=16))
            codes = [encode(codec, wave) for wave in waves]
            torch.save(
                {
                    "intents": list(names),
                    "texts": list(texts),
                    "manners": list(manners),
                    "lengths": [c.shape[1] for c in codes],
                    "codes": torch.cat(codes, dim=1),
                },
                path,
            )


def read_shards(folder: Path) -> Iterator[Spoken]:
    """What `write_users` has put there so far."""
    for path in sorted(folder.glob("*.pt")):
        shard = torch.load(path, weights_only=True)
        parts = shard["codes"].split(shard["lengths"], dim=1)
        for intent, text, manner, codes in zip(
            shard["intents"], shard["texts"], shard["manners"], parts
        ):
            yield Spoken(intent=intent, text=text, manner=manner, codes=codes)


@torch.no_grad()
def encode(codec: FireflyArchitecture, wave: np.ndarray) -> Tensor:
    """Wave float32 [T] -> codes [K, L] int16, all of L, as the voice loop does."""
    audio = torch.from_numpy(wave)[None, None]
    codes, _ = codec.encode(audio, torch.tensor([len(wave)]))
    return codes[0].short()


def _speak_user_job(job) -> tuple[str, str, str, np.ndarray]:
    name, text, emotion, seed, heldout = job
    wave = speak_user(text, emotion, np.random.default_rng(seed), heldout=heldout)
    return name, text, emotion, wave


def _lock_job(job) -> np.ndarray:
    """Speech, and the same with its pitch locked: [2, T], T in whole frames."""
    text, manner, seed, heldout = job
    if manner in STYLES:
        wave = speak_assistant(text, manner)
    else:
        wave = speak_user(text, manner, np.random.default_rng(seed), heldout=heldout)
    noise = np.random.default_rng(0).standard_normal(-len(wave) % FRAME, dtype=np.float32)
    wave = np.concatenate([wave, NOISE_FLOOR * noise])
    return np.stack([wave, lock_pitch(wave)])
