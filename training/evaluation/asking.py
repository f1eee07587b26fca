"""A checkpoint's replies to many users, who talk to it side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from models.contract import Conversation, ReplyOptions, SpeechModel, UserTurn

from ..speech.speakers import SAMPLE_RATE
from .questions import Question

MAX_SECONDS = 15.0  # a reply that has not ended by then is cut
NUM_USERS = 6  # conversations at a time
PUSH_SECONDS = 0.1  # of speech that is streamed in


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply; emotion, style and heard are None where the model says none.

    Fields:
        wave: [n] float32 at the model's sample rate.
        ended: the model ended it, in time.
        work_seconds: from the first sample heard to the last one said.
        wait_seconds: from the end of the user's turn to the first sound; None without any.
    """

    text: str
    emotion: str | None
    style: str | None
    wave: np.ndarray
    ended: bool
    work_seconds: float
    wait_seconds: float | None
    heard: str | None = None


def ask_all(
    model: SpeechModel,
    scripts: Sequence[Sequence[Question]],
    seed: int,
    *,
    style: str | None = None,
    max_seconds: float | None = None,
    label: str = "replies",
) -> list[list[Answer]]:
    """Hold conversations with the model's own sampling settings, several at a time.

    Args:
        scripts: the questions of each conversation.
        seed: of all replies; each has its own, whatever is asked beside it.
        style: that all replies shall have, one of the model's; None leaves it to the model.
        max_seconds: speech at which a reply is cut; None for `MAX_SECONDS`.
    """
    frames = max(1, int((max_seconds or MAX_SECONDS) * model.frame_rate))

    def hold(numbered: tuple[int, Sequence[Question]]) -> list[Answer]:
        index, script = numbered
        conversation = model.new_conversation()
        answers = []
        for turn, question in enumerate(script):
            drawn = dataclasses.replace(model.sampling, seed=seed + 10 * index + turn)
            options = ReplyOptions(sampling=drawn, style=style, max_frames=frames)
            answers.append(ask(conversation, question, options))
        return answers

    with ThreadPoolExecutor(NUM_USERS) as pool:
        held = pool.map(hold, enumerate(scripts))
        return list(tqdm(held, total=len(scripts), desc=label, leave=False))


def ask_each(
    model: SpeechModel, questions: Sequence[Question], seed: int, **settings
) -> list[Answer]:
    """Ask each question in a conversation of its own; `settings` as for `ask_all`."""
    return [answers[0] for answers in ask_all(model, [[q] for q in questions], seed, **settings)]


def ask(
    conversation: Conversation, question: Question, options: ReplyOptions, streamed: bool = False
) -> Answer:
    """Ask one question, and wait for the whole reply.

    Args:
        streamed: the speech comes in piece by piece, as from a microphone; else at once.
    """
    started = time.perf_counter()
    turn = conversation.begin_turn(question.line.text if question.written else None, SAMPLE_RATE)
    if question.wave is not None:
        _hear(turn, question.wave, streamed)
    heard = time.perf_counter()
    turn.finish()
    wait, chunks = None, []
    for chunk in conversation.reply(turn, options):
        if wait is None and len(chunk.new_audio):
            wait = time.perf_counter() - heard
        chunks.append(chunk)
    return Answer(
        text="".join(chunk.new_text for chunk in chunks),
        emotion=chunks[-1].emotion,
        style=chunks[-1].style,
        heard=chunks[-1].heard,
        wave=np.concatenate([chunk.new_audio for chunk in chunks]),
        ended=chunks[-1].ended,
        work_seconds=time.perf_counter() - started,
        wait_seconds=wait,
    )


def _hear(turn: UserTurn, wave: np.ndarray, streamed: bool) -> None:
    samples = torch.from_numpy(wave)
    size = round(PUSH_SECONDS * SAMPLE_RATE) if streamed else len(samples)
    for piece in samples.split(size):
        turn.push(piece)
