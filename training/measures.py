"""What the evaluation does with a checkpoint: its codec, its answers, its speech, its pace."""

import contextlib
import io
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pystoi
import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor
from tqdm import tqdm

from generate import generate_long
from models.audio import AudioClip
from models.westlake.checkpoint import Checkpoint
from models.westlake.speech_model import WestlakeModel

from .answers import MAX_SECONDS, Answer, Question, answer_all, follow_up, speech_of
from .dialogues import STYLES, Dialogues
from .judge import Judge
from .prosody import ProsodyMeasure, measure_prosody
from .scores import characters, is_right_reply
from .synthesise import SAMPLE_RATE


def through_codec(checkpoint: Checkpoint, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wave [n] at 22,050 Hz -> itself and what the codec makes of it, at the codec's rate."""
    rate = checkpoint.codec.config.sample_rate
    original = AF.resample(torch.from_numpy(wave), SAMPLE_RATE, rate)
    decoded = speech_of(checkpoint, encode(checkpoint, original))
    num_samples = min(len(original), len(decoded))
    return original.numpy()[:num_samples], decoded[:num_samples]


def stoi(checkpoint: Checkpoint, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean intelligibility 0..1 of the decoded speech (Taal et al., 2011) of `through_codec`."""
    rate = checkpoint.codec.config.sample_rate
    return float(np.mean([pystoi.stoi(original, decoded, rate) for original, decoded in pairs]))


@torch.no_grad()
def mel_distance(checkpoint: Checkpoint, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Median over the pairs of `through_codec` of the mean log-mel difference (L1)."""
    distances = []
    for pair in pairs:
        waves = torch.from_numpy(np.stack(pair))[:, None].to(checkpoint.device)
        original, decoded = checkpoint.codec.spec_transform(waves)
        distances.append(float(F.l1_loss(original, decoded)))
    return float(np.median(distances))


def count_codes(checkpoint: Checkpoint, recording: Path) -> int:
    """Fewest different codes that one of the codebooks uses on a recording."""
    samples = np.load(recording, mmap_mode="r")
    rate = checkpoint.codec.config.sample_rate
    used: list[set[int]] = [set() for _ in range(checkpoint.codec.config.num_codebooks)]
    piece = 30 * SAMPLE_RATE
    for start in tqdm(range(0, len(samples), piece), desc="codes", leave=False):
        wave = torch.from_numpy(samples[start : start + piece] / np.float32(32768))
        codes = encode(checkpoint, AF.resample(wave, SAMPLE_RATE, rate))
        for seen, row in zip(used, codes.tolist()):
            seen.update(row)
    return min(map(len, used))


@torch.no_grad()
def encode(checkpoint: Checkpoint, wave: Tensor) -> Tensor:
    """Wave [n] float32 at the codec's rate -> codes [K, L] long; at least one frame of them."""
    codec = checkpoint.codec
    wave = F.pad(wave, (0, max(0, codec.config.samples_per_frame - len(wave))))
    codes = codec.encode_chunk(wave[None, None].to(checkpoint.device), codec.new_state(), last=True)
    return codes[0].cpu()


def right_intents(
    dialogues: Dialogues, questions: Sequence[Question], answers: Sequence[Answer]
) -> list[bool]:
    """For each answer, whether it is one for its question's intent."""
    known = {
        intent.name: (
            *(t for texts in intent.replies.values() for t in texts),
            *intent.then.values(),
        )
        for intent in dialogues.intents
    }
    return [is_right_reply(a.text, q.intent.name, known) for q, a in zip(questions, answers)]


def second_turns(
    checkpoint: Checkpoint,
    dialogues: Dialogues,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    seed: int,
    rng: np.random.Generator,
) -> list[bool]:
    """For each follow-up question, whether its answer is the one for the first question's intent.

    Held-out follow-ups are asked by speech alone, after the model's own answers to `questions`.
    """
    kinds = rng.choice(list(dialogues.followups), len(questions)).tolist()
    second = [
        follow_up(question, answer, str(rng.choice(dialogues.followups[kind][1])))
        for question, answer, kind in zip(questions, answers, kinds)
    ]
    known = {
        f"{intent.name} {kind}": [text]
        for intent in dialogues.intents
        for kind, text in intent.then.items()
    }
    replies = answer_all(checkpoint, second, seed, label="second turn")
    return [
        is_right_reply(reply.text, f"{question.intent.name} {kind}", known)
        for question, kind, reply in zip(second, kinds, replies)
    ]


def reply_errors(
    checkpoint: Checkpoint, judge: Judge, answers: Sequence[Answer]
) -> list[tuple[int, int]]:
    """For each reply, the judge's errors between its speech and its text, and its characters."""
    rate = checkpoint.codec.config.sample_rate
    return [
        judge.count_errors(answer.text, speech_of(checkpoint, answer.codes), rate)
        for answer in tqdm(answers, desc="judge", leave=False)
    ]


def pooled(counts: Iterable[tuple[int, int]]) -> float:
    """(errors, characters) of many texts -> errors per character of them all."""
    errors, num_characters = map(sum, zip(*counts))
    return errors / num_characters


def style_prosody(
    checkpoint: Checkpoint, questions: Sequence[Question], seed: int
) -> dict[str, ProsodyMeasure | None]:
    """Median prosody of each style, forced on the same questions; None where nothing is heard."""
    medians: dict[str, ProsodyMeasure | None] = {}
    for style in STYLES:
        answers = answer_all(checkpoint, questions, seed, style=style, label=style)
        measures = []
        for answer in answers:
            wave = speech_of(checkpoint, answer.codes)
            with contextlib.suppress(ValueError):  # silence has no prosody
                rate = checkpoint.codec.config.sample_rate
                measures.append(measure_prosody(wave, rate, len(characters(answer.text))))
        medians[style] = None
        if measures:
            names = [f.name for f in fields(ProsodyMeasure)]
            values = {n: float(np.median([getattr(m, n) for m in measures])) for n in names}
            medians[style] = ProsodyMeasure(**values)
    return medians


def real_time_factor(checkpoint: Checkpoint, questions: Sequence[Question], seed: int) -> float:
    """Seconds of work a second of reply speech, hearing included; the first reply warms up."""
    work = speech = 0.0
    sampling = replace(checkpoint.sampling, seed=seed)
    model = WestlakeModel(checkpoint)
    max_frames = int(MAX_SECONDS * model.frame_rate)
    for index, question in enumerate(tqdm(questions, desc="timing", leave=False)):
        clip = AudioClip(torch.from_numpy(question.wave), SAMPLE_RATE)
        with contextlib.redirect_stderr(io.StringIO()):  # it has a progress bar of its own
            started = time.perf_counter()
            chunks = list(
                generate_long(model, audio=clip, sampling=sampling, max_new_tokens=max_frames)
            )
            spent = time.perf_counter() - started
        if index or len(questions) == 1:
            work += spent
            speech += sum(len(chunk.new_audio) / model.sample_rate for chunk in chunks)
    return work / speech if speech else math.inf
