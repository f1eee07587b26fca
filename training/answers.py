"""Held-out questions, and a checkpoint's answers to many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.westlake.checkpoint import Checkpoint
from models.westlake.conversation import Conversation, Turn, UserTurn
from models.westlake.dual_ar import Reply, next_frames
from models.westlake.speech import TextDecoder

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


class _Row:
    """One reply in the making, on the path that `generate_long` takes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        question: Question,
        seed: int,
        style: str | None,
        max_frames: int,
    ) -> None:
        self.checkpoint = checkpoint
        self.conversation = Conversation(checkpoint)
        self.conversation.turns = [replace(turn) for turn in question.before]
        text = question.text if question.with_text else None
        turn = UserTurn(self.conversation, text, SAMPLE_RATE)
        turn.push(torch.from_numpy(question.wave))
        turn.finish()
        self.frames: list[Tensor] = []
        self.reply = Reply(
            checkpoint.model,
            self.conversation.unread,
            max_frames,
            replace(checkpoint.sampling, seed=seed),
            checkpoint.end_id,
            cache=self.conversation.cache,
            forced=() if style is None else (None, checkpoint.style_ids[style]),
        )

    def answer(self, ended: bool) -> Answer:
        grid = self.conversation.turns[-1].columns[:, :0]
        if self.frames:
            grid = torch.stack(self.frames, dim=1).cpu()  # [1+K, n]
        self.conversation.end_turn(grid)
        tokens = grid[0].tolist()
        decoder = TextDecoder(self.checkpoint)
        codebook_size = self.checkpoint.codec.config.codebook_size
        return Answer(
            text="".join(decoder.push(token) for token in tokens),
            emotion=_first_word(tokens, self.checkpoint.emotion_ids),
            style=_first_word(tokens, self.checkpoint.style_ids),
            codes=(grid[1:] - 1).clamp(max=codebook_size - 1),
            ended=ended,
            turns=self.conversation.turns,
        )


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
    config = checkpoint.codec.config
    seconds = MAX_SECONDS if max_seconds is None else max_seconds
    max_frames = max(1, int(seconds * config.sample_rate / config.samples_per_frame))
    answers: dict[int, Answer] = {}
    rows: dict[int, _Row] = {}
    begun = 0
    with tqdm(total=len(questions), desc=label, leave=False) as bar:
        while len(answers) < len(questions):
            while begun < len(questions) and len(rows) < NUM_ROWS:
                rows[begun] = _Row(checkpoint, questions[begun], seed + begun, style, max_frames)
                begun += 1
            frames = next_frames(checkpoint.model, [row.reply for row in rows.values()])
            for index, frame in zip(list(rows), frames):
                if frame is not None:
                    rows[index].frames.append(frame)
                if rows[index].reply.ended:
                    answers[index] = rows.pop(index).answer(ended=frame is None)
                    bar.update()
    return [answers[index] for index in range(len(questions))]


@torch.no_grad()
def speech_of(checkpoint: Checkpoint, codes: Tensor) -> np.ndarray:
    """Codes [K, n] -> wave [n * samples_per_frame] float32 at the codec's rate."""
    codec = checkpoint.codec
    wave = codec.decode_chunk(codes[None].to(checkpoint.device), codec.new_state())
    return wave[0, 0].float().cpu().numpy()


def _first_word(tokens: Sequence[int], ids: dict[str, int]) -> str | None:
    names = {token: name for name, token in ids.items()}
    return next((names[token] for token in tokens if token in names), None)
