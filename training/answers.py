"""Held-out questions, and a checkpoint's answers to many of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.contract import ReplyOptions
from models.westlake.checkpoint import Checkpoint
from models.westlake.conversation import Conversation, Turn
from models.westlake.reply import reply_to_all
from models.westlake.speech_model import WestlakeModel
from models.westlake.user_turn import UserTurn

from .dialogues import EMOTIONS, Dialogues, Intent
from .synthesise import SAMPLE_RATE, UserSpeaker

MAX_SECONDS = 15.0  # a reply that has not ended by then is cut
NUM_ROWS = 12  # replies in the making at once


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a user says, how, and how it sounds: wave [n] float32 at 22,050 Hz."""

    intent: Intent
    text: str
    emotion: str
    speaker: UserSpeaker
    wave: np.ndarray
    with_text: bool = False
    before: Sequence[Turn] = ()  # the conversation so far


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply; emotion and style are None where the model says none.

    Fields:
        codes: [K, n] long, the codec's own.
        ended: the model ended it, in time.
        turns: the conversation, this reply included.
    """

    text: str
    emotion: str | None
    style: str | None
    codes: Tensor
    ended: bool
    turns: list[Turn]


def draw_questions(
    dialogues: Dialogues, num_questions: int, rng: np.random.Generator, any_emotion: bool = False
) -> list[Question]:
    """Held-out lines in held-out voices, all intents in turn.

    Args:
        any_emotion: every emotion as often as any other, whatever the words say; else one that
            the words suggest.
    """
    held = {intent.name: rng.permutation(intent.held).tolist() for intent in dialogues.intents}
    uniform = rng.permutation(np.resize(EMOTIONS, num_questions)).tolist()
    questions = []
    for index in tqdm(range(num_questions), desc="questions", leave=False):
        round_, place = divmod(index, len(dialogues.intents))
        intent = dialogues.intents[place]
        text = held[intent.name][round_ % len(intent.held)]
        emotion = uniform[index] if any_emotion else str(rng.choice(intent.emotions))
        speaker = UserSpeaker.sample(rng, heldout=True)
        wave = speaker.speak(text, emotion)
        questions.append(
            Question(intent=intent, text=text, emotion=emotion, speaker=speaker, wave=wave)
        )
    return questions


def follow_up(question: Question, answer: Answer, text: str) -> Question:
    """The same user, in the same mood, goes on by speech alone after the answer."""
    wave = question.speaker.speak(text, question.emotion)
    return replace(question, text=text, wave=wave, with_text=False, before=answer.turns)


def answer_all(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    seed: int,
    *,
    style: str | None = None,
    max_seconds: float | None = None,
    label: str = "answers",
) -> list[Answer]:
    """Answer every question with the checkpoint's own sampling settings, several at a time.

    Args:
        seed: of the first reply's sampling, one more for each further one; so an answer hardly
            depends on what is answered beside it.
        style: the style that all replies shall have; None leaves it to the model.
        max_seconds: speech at which a reply is cut; None for `MAX_SECONDS`.

    Raises:
        ValueError: a style that the checkpoint does not have.
    """
    if style is not None and style not in checkpoint.style_ids:
        allowed = ", ".join(checkpoint.style_ids) or "none"
        raise ValueError(f"{checkpoint.name} has no style {style!r}; its styles are: {allowed}")
    model = WestlakeModel(checkpoint)
    seconds = MAX_SECONDS if max_seconds is None else max_seconds
    max_frames = max(1, int(seconds * model.frame_rate))
    order: dict[Conversation, int] = {}

    def turns() -> Iterator[tuple[UserTurn, ReplyOptions]]:
        for index, question in enumerate(questions):
            conversation = Conversation(model, [replace(turn) for turn in question.before])
            order[conversation] = index
            turn = conversation.begin_turn(
                question.text if question.with_text else None, SAMPLE_RATE
            )
            turn.push(torch.from_numpy(question.wave))
            turn.finish()
            sampling = replace(checkpoint.sampling, seed=seed + index)
            yield turn, ReplyOptions(sampling=sampling, style=style, max_frames=max_frames)

    answers: dict[int, Answer] = {}
    replies = reply_to_all(turns(), NUM_ROWS)
    for conversation, reply in tqdm(replies, total=len(questions), desc=label, leave=False):
        answers[order[conversation]] = Answer(
            text=reply.text,
            emotion=reply.emotion,
            style=reply.style,
            codes=reply.codes,
            ended=reply.ended,
            turns=conversation.turns,
        )
    return [answers[index] for index in range(len(questions))]


@torch.no_grad()
def speech_of(checkpoint: Checkpoint, codes: Tensor) -> np.ndarray:
    """Codes [K, n] -> wave [n * samples_per_frame] float32 at the codec's rate."""
    codec = checkpoint.codec
    wave = codec.decode_chunk(codes[None].to(checkpoint.device), codec.new_state())
    return wave[0, 0].float().cpu().numpy()
