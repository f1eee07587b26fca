"""Conversations for the language model, drawn from the dialogues and their spoken renditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.westlake.dual_ar.prompt import PromptTokens, text_columns, turn_grid
from models.westlake.told_moods import told_emotion

from ..dialogues import (
    NO_EMOTION,
    SILENT,
    STYLE_FOR_EMOTION,
    STYLES,
    UNCLEAR,
    UNTOLD,
    Dialogues,
    Intent,
)
from ..speech.lines import followup_styles, styled_replies
from ..speech.pinyin import PUNCTUATION, plain_syllables, syllables
from .corpus import Spoken
from .example import Example, join
from .mishearing import Mishearing
from .splicing import Splicer, spoken_syllables, stretch
from .tokenizer import emotion_token, heard_syllables, heard_token, topic_token
from .wording import as_said, pieces, reword

# What the user gives: where replies are words alone; and where they are spoken, in shorter prompts.
INPUT_SHARES = {
    False: {"speech": 0.45, "speech_text": 0.05, "text": 0.2, "transcript": 0.3},
    True: {"speech": 0.4, "speech_text": 0.15, "text": 0.45},
}
QUESTION_SHARES = {"text": 0.5, "transcript": 0.5}  # and where only the question is learned
UNKNOWN_OTHER = "unknown.other"
WEIGHTS = {
    UNKNOWN_OTHER: 8.0,
    UNCLEAR: 2.5,
    SILENT: 1.0,
}  # of an intent among the others, which have 1
# Conversations of one turn, of two, ...: what is spoken in a further turn is harder to learn.
TURN_SHARES = {
    False: (0.75, 0.14, 0.06, 0.03, 0.01, 0.01),
    True: (0.5, 0.33, 0.12, 0.03, 0.01, 0.01),
}
# Of further turns, those that ask on; the others begin a new topic. What answers them is heard
# nowhere else.
FOLLOWUP_SHARE = {False: 0.4, True: 0.75}
EARLIER_SPOKEN_SHARE = 0.5  # of replies that another turn follows, where that is spoken
SPACED_SHARE = 0.1  # of replies whose words alone are learned, that stand among their speech
FREE_STYLE_SHARE = 0.3  # of replies whose style is drawn, so that a caller can force any
EMOTION_WEIGHT = 8.0  # of the user's emotion, beside one token of the words
TOPIC_WEIGHT = 20.0  # of the topic, which decides all words, beside one of them
LEAD_FRAMES = 2  # that a reply's characters are written before they are spoken
HEARING_FRAMES = 5  # that the model may take to tell a syllable
SPLICED_SHARE = 0.6  # of spoken lines whose syllables others said


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """What was drawn for one turn; prompt [1+K, P] and the marks [1+K, m] of the reply, which is
    `spoken`, as the model reads them, what is `heard` and `spelled` in the prompt, see `Example`,
    and the `question` in it."""

    heard: list[tuple[int, Sequence[str]]]
    spelled: list[tuple[int, int, Sequence[str]]]
    free_style: bool
    knows_emotion: bool
    spoken: Spoken
    question: str
    prompt: Tensor
    marks: Tensor


class Conversations:
    """Draws conversations; everything random comes from the generator handed in."""

    def __init__(
        self,
        dialogues: Dialogues,
        users: Iterable[Spoken],
        replies: Iterable[Spoken],
        tokenizer,
        num_codebooks: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokens = PromptTokens.from_encode(tokenizer.encode)
        self.num_codebooks = num_codebooks
        self.users: dict[str, list[Spoken]] = defaultdict(list)
        for user in users:
            self.users[user.intent].append(user)
        self.splicer = Splicer(user for spoken in self.users.values() for user in spoken)
        self.mishearing = Mishearing(heard_syllables(dialogues))
        self.replies: dict[str, dict[str, Spoken]] = defaultdict(dict)  # text -> style -> spoken
        for reply in replies:
            self.replies[reply.text][reply.manner] = reply
        self.followups = {kind: lines for kind, (lines, _) in dialogues.followups.items()}
        self.intents = {
            intent.name: intent for intent in dialogues.intents if self._can_be_drawn(intent)
        }
        weights = np.array([WEIGHTS.get(name, 1.0) for name in self.intents])
        self.weights = weights / weights.sum()

    def _can_be_drawn(self, intent: Intent) -> bool:
        replied = any(text in self.replies for texts in intent.replies.values() for text in texts)
        return replied and bool(intent.users or self.users[intent.name])

    def draw(self, rng: np.random.Generator, speak: bool = True) -> Example:
        """One conversation of one to six turns: topics, questions about them, new topics.

        Args:
            speak: else only words are learned; some stand as they are spoken, others alone.
        """
        shares = TURN_SHARES[speak]
        num_turns = 1 + int(rng.choice(len(shares), p=shares))
        turns: list[Example] = []
        intent = self._draw_intent(rng)
        for index in range(num_turns):
            kind = None
            if index and rng.random() < FOLLOWUP_SHARE[speak]:
                kinds = [k for k, text in intent.then.items() if text in self.replies]
                kind = str(rng.choice(kinds)) if kinds else None
            if index and kind is None:
                intent = self._draw_intent(rng)
            spoken = speak and (index == num_turns - 1 or rng.random() < EARLIER_SPOKEN_SHARE)
            turn = self._turn(intent, kind, index, rng, spoken)
            if speak and not spoken:  # words alone: a short way to what follows them
                turn = replace(turn, learn_text=torch.zeros_like(turn.learn_text))
            turns.append(turn)
        return join(turns)

    def draw_question(self, rng: np.random.Generator) -> Example:
        """One first turn, of something that is written, up to the marks of its reply.

        The topic among them decides all words; without these far more of what users say is read in
        the same time. Between the words the marks would count less.

        Raises:
            ValueError: nothing is written of any topic that can be drawn.
        """
        if not any(intent.users for intent in self.intents.values()):
            raise ValueError("no topic with a recorded reply has a 'user' line: add one")
        while not (intent := self._draw_intent(rng)).users:
            pass
        turn = self._draw_turn(intent, None, 0, rng, QUESTION_SHARES)
        return _example(turn, turn.marks)

    def prompt(
        self,
        user: Spoken,
        inputs: str,
        after_reply: bool = False,
        rng: np.random.Generator | None = None,
        heard: Sequence[str] = (),
    ) -> Tensor:
        """The prompt [1+K, T] of one user turn, given as speech, speech_text, text or as what was
        `heard` alone, the transcript.

        Args:
            heard: syllables that the model wrote down of speech without text.
            rng: cuts the text into random pieces, each of which becomes tokens of its own, so
                that the model learns short tokens too (after BPE dropout: Provilkov et al., 2020).
        """
        ids = self.tokenizer.encode("".join(map(heard_token, heard)))
        if inputs == "transcript":
            return turn_grid(self.tokens, ids, None, self.num_codebooks, after_reply=after_reply)
        text = []
        if inputs != "speech":
            text = [id for piece in pieces(user.text, rng) for id in self.tokenizer.encode(piece)]
        return turn_grid(
            self.tokens,
            text,
            user.codes.long() if inputs != "text" else None,
            self.num_codebooks,
            after_reply=after_reply,
            heard=ids,
        )

    def marks(self, emotion: str, style: str, question: str) -> Tensor:
        """What a reply begins with, unheard: emotion, style, topic: [1+K, 3].

        So the words follow from a topic that is decided once.
        """
        names = [emotion_token(emotion), f"<|style:{style}|>", topic_token(question)]
        return text_columns(self.tokenizer.encode("".join(names)), self.num_codebooks)

    def reply_columns(self, reply: Spoken) -> Tensor:
        """A reply [1+K, n] behind its marks: each character shortly before it is spoken, with
        `<|semantic|>` between; without its end.

        So what is to be spoken next always stands a few columns back.
        """
        row = torch.full((1, reply.codes.shape[1]), self.tokens.semantic)
        column, onsets = 0, iter(reply.onsets)
        for char in reply.text:
            if char not in PUNCTUATION:
                column = max(column, next(onsets) - LEAD_FRAMES)
            for token in self.tokenizer.encode(char):
                row[0, column] = token
                column += 1
        return torch.cat([row, reply.codes.long() + 1])

    def end_column(self) -> Tensor:
        """The end token with pad codes, [1+K, 1]."""
        column = torch.zeros(1 + self.num_codebooks, 1, dtype=torch.long)
        column[0] = self.tokens.end
        return column

    def draw_reply(self, rng: np.random.Generator) -> tuple[str, Tensor, Tensor]:
        """One first turn: the words of a reply, its prompt, and its columns, marks included,
        without the end."""
        drawn = self._draw_turn(self._draw_intent(rng), None, 0, rng, INPUT_SHARES[True])
        reply = torch.cat([drawn.marks, self.reply_columns(drawn.spoken)], dim=1)
        return drawn.spoken.text, drawn.prompt, reply

    def _draw_intent(self, rng: np.random.Generator) -> Intent:
        return self.intents[str(rng.choice(list(self.intents), p=self.weights))]

    def _draw_user(
        self,
        intent: Intent,
        kind: str | None,
        index: int,
        rng: np.random.Generator,
        shares: Mapping[str, float],
    ) -> tuple[Spoken, str]:
        """What the user says or writes, and as what it comes.

        Args:
            shares: of the ways in which it may come, as in `INPUT_SHARES`.
        """
        spoken = self.users[intent.name if kind is None else f"follow.{kind}"]
        written = intent.users if kind is None else self.followups[kind]
        corrects = index > 0 and kind is None
        inputs = str(rng.choice(list(shares), p=list(shares.values())))
        if not written:
            inputs = "speech"
        if inputs in ("speech", "speech_text"):
            if written and (not spoken or rng.random() < SPLICED_SHARE):
                line = as_said(str(rng.choice(written)), corrects, rng)
                spliced = self.splicer.say(intent.name, line, rng)
                if spliced is not None:
                    return stretch(spliced, rng), inputs
            if spoken:
                return stretch(spoken[rng.integers(len(spoken))], rng), inputs
        text = as_said(str(rng.choice(written)), corrects, rng)
        emotion = intent.emotions[0] if kind is None else "neutral"
        codes = torch.zeros(self.num_codebooks, 0, dtype=torch.short)
        if inputs != "transcript":  # behind a transcript stands the voice's mood
            inputs, told = "text", told_emotion(text)
            emotion = told if told in intent.emotions else emotion
            text = reword(text, rng)
        return Spoken(intent=intent.name, text=text, manner=emotion, codes=codes), inputs

    def _draw_turn(
        self,
        intent: Intent,
        kind: str | None,
        index: int,
        rng: np.random.Generator,
        shares: Mapping[str, float],
    ) -> _Turn:
        user, inputs = self._draw_user(intent, kind, index, rng, shares)
        names = plain_syllables(user.text) if inputs in ("speech", "transcript") else []
        written = self.mishearing.hear(names, rng) or names
        if inputs == "speech" and not names:
            written = self.mishearing.hear_noise(rng)
        prompt = self.prompt(user, inputs, after_reply=index > 0, rng=rng, heard=written)
        heard, spelled = [], []
        if inputs == "speech":
            first = int((prompt[0] == self.tokens.semantic).nonzero()[0])
            heard = _heard(first, spoken_syllables(user, names))
            spelled = [(first, user.codes.shape[1], names)]
        knows_emotion = user.manner != UNTOLD
        likeliest = intent.emotions[0] if kind is None else "neutral"
        emotion = user.manner if knows_emotion else likeliest
        if intent.name in (UNCLEAR, SILENT):
            emotion = NO_EMOTION
        free_style = rng.random() < FREE_STYLE_SHARE
        fitting = intent.styles(emotion) if kind is None else (STYLE_FOR_EMOTION[emotion],)
        style = str(rng.choice(STYLES if free_style else fitting))
        spoken = self._choose_reply(intent, kind, style, rng)
        question = intent.name if kind is None else f"{intent.name}.{kind}"
        return _Turn(
            heard=heard,
            spelled=spelled,
            free_style=free_style,
            knows_emotion=knows_emotion,
            spoken=spoken,
            prompt=prompt,
            question=question,
            marks=self.marks(emotion, style, question),
        )

    def _choose_reply(
        self, intent: Intent, kind: str | None, style: str, rng: np.random.Generator
    ) -> Spoken:
        """A recorded reply in the style, or where there is none yet, one in another."""
        texts = styled_replies(intent)[style] if kind is None else (intent.then[kind],)
        everything = [t for ts in intent.replies.values() for t in ts]
        known = [text for text in texts if style in self.replies.get(text, {})]
        known = known or [text for text in texts if text in self.replies]
        known = known or [text for text in everything if text in self.replies]
        spoken = self.replies[str(rng.choice(known))]
        if style in spoken:
            return spoken[style]
        return (
            spoken[next(iter(spoken))]
            if kind is None
            else spoken[
                next((s for s in followup_styles(intent) if s in spoken), next(iter(spoken)))
            ]
        )

    def _turn(
        self, intent: Intent, kind: str | None, index: int, rng: np.random.Generator, speak: bool
    ) -> Example:
        turn = self._draw_turn(intent, kind, index, rng, INPUT_SHARES[speak])
        reply = self.reply_columns(turn.spoken)
        alone = not speak and rng.random() >= SPACED_SHARE
        if alone:
            reply = reply[:, reply[0] != self.tokens.semantic]  # which the model reads no codes of
        example = _example(turn, torch.cat([turn.marks, reply, self.end_column()], dim=1))
        words = turn.prompt.shape[1] + turn.marks.shape[1]  # where they begin
        learn_text, learn_codes = example.learn_text, example.learn_codes
        if speak:
            learn_codes = learn_text > 0
            learn_codes[:words] = learn_codes[-1] = False
        else:
            tokens = example.grid[0]
            learn_text = learn_text * (tokens != self.tokens.semantic) * (tokens != self.tokens.end)
        said = [] if alone else [(words - 1, _reply_syllables(turn.spoken))]
        return replace(example, learn_text=learn_text, learn_codes=learn_codes, said=said)


def _example(turn: _Turn, reply: Tensor) -> Example:
    """A turn with its reply [1+K, n], or the marks that it begins with, as text to be learned."""
    first = turn.prompt.shape[1]
    grid = torch.cat([turn.prompt, reply], dim=1)
    learn_text = torch.zeros(grid.shape[1])
    learn_text[first:] = 1
    learn_text[first] = EMOTION_WEIGHT if turn.knows_emotion else 0
    learn_text[first + turn.marks.shape[1] - 1] = TOPIC_WEIGHT
    if turn.free_style:
        learn_text[first + 1] = 0  # drawn, so not to be expected
    return Example(
        grid=grid,
        learn_text=learn_text,
        learn_codes=torch.zeros(grid.shape[1], dtype=torch.bool),
        users=torch.arange(grid.shape[1]) < first,
        heard=turn.heard,
        spelled=turn.spelled,
        asked=[(first - 1, turn.question)],
        said=[],
    )


def _heard(column: int, names: list[str]) -> list[tuple[int, Sequence[str]]]:
    """What can be told of syllables that are said in the columns from one on, see `Example`."""
    told = names[:-HEARING_FRAMES]
    return [(column + HEARING_FRAMES, told)] if any(told) else []


def _reply_syllables(reply: Spoken) -> list[str]:
    return spoken_syllables(reply, ["".join(syllable) for syllable in syllables(reply.text)])
