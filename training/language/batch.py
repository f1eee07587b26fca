"""Conversations side by side, as the losses take them: nothing but tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.tokenizer import TextTokenizer

from ..dialogues import Dialogues
from ..speech.pinyin import syllables
from .example import Example
from .tokenizer import heard_syllables, heard_token, questions_of, topic_token


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B conversations, padded on the right to T columns.

    Places are columns counted over all rows, row * T + column; what is learned at one is what the
    model tells after reading it. All are long but where it says otherwise.

    Fields:
        grid: [B, 1+K, T] int16.
        users: [B, T] bool, the user's columns.
        replies: [B, T] bool, columns whose codes are learned.
        word_places: [n], where the next column's text is learned; `words` [n] that text,
            `word_weights` [n] float32 how much it counts.
        code_places: [m], where the next column's codes are learned; `codes` [m, K] those.
        question_places: [q], where a reply begins; `questions` [q] what it replies to.
        heard_places: [h], where the user's speech is told; `heard` [h] the syllable.
        said_places: [s], where a reply's speech is told; `said` [s] the syllable.
        spelled_places: [L, u], each utterance that is written down, at most L columns, the last
            repeated; `spelled_lengths` [u] its columns, `spelling_lengths` [u] its syllables, and
            `spelled` [all of them] those, one utterance after another.
    """

    grid: Tensor
    users: Tensor
    replies: Tensor
    word_places: Tensor
    words: Tensor
    word_weights: Tensor
    code_places: Tensor
    codes: Tensor
    question_places: Tensor
    questions: Tensor
    heard_places: Tensor
    heard: Tensor
    said_places: Tensor
    said: Tensor
    spelled_places: Tensor
    spelled_lengths: Tensor
    spelling_lengths: Tensor
    spelled: Tensor

    def to(self, device: str | torch.device) -> Batch:
        """The same on a device; only the lengths stay on the CPU, where the loss wants them."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if not field.name.endswith("_lengths")
        }
        return dataclasses.replace(self, **moved)


class Labels:
    """Numbers for all that is heard, asked and said in training, and what makes batches of it.

    Fields:
        heard: syllables that users' lines are made of, without tones, "" for silence -> number.
        written: the text tokens that the model writes those down as; `<|semantic|>` for silence.
        questions: all that may be asked -> number.
        said: syllables that replies are made of, "" for silence -> number.

    Raises:
        ValueError: the tokenizer is of other dialogues.
    """

    def __init__(self, dialogues: Dialogues, tokenizer: TextTokenizer) -> None:
        vocab = tokenizer.get_vocab()
        heard = heard_syllables(dialogues)
        needed = [*map(topic_token, questions_of(dialogues.intents)), *map(heard_token, heard)]
        if missing := [token for token in needed if token not in vocab]:
            raise ValueError(
                f"the tokenizer has no {', '.join(missing)}: it is of other dialogues; "
                "begin with an empty work folder"
            )
        self.heard = _numbered(["", *heard])
        self.written = [vocab["<|semantic|>"], *(vocab[heard_token(name)] for name in heard)]
        self.questions = _numbered(questions_of(dialogues.intents))
        replied = {
            text
            for intent in dialogues.intents
            for texts in (*intent.replies.values(), tuple(intent.then.values()))
            for text in texts
        }
        said = sorted({"".join(name) for text in replied for name in syllables(text)})
        self.said = _numbered(["", *said])

    def collate(
        self, examples: Sequence[Example], max_code_frames: int, rng: np.random.Generator
    ) -> Batch:
        """Put conversations side by side.

        Args:
            examples: B of them, a row each.
            max_code_frames: of more columns with codes to be learned, so many are drawn.
            rng: draws those.
        """
        length = max(example.grid.shape[1] for example in examples)

        def padded(rows: Iterable[Tensor]) -> Tensor:
            fill = torch.nn.functional.pad
            return torch.stack([fill(row, (0, length - row.shape[-1])) for row in rows])

        grid = padded(e.grid.short() for e in examples)
        weights = padded(e.learn_text for e in examples).flatten()
        replies = padded(e.learn_codes for e in examples)
        word_places = weights.nonzero()[:, 0]
        code_places = replies.flatten().nonzero()[:, 0]
        if len(code_places) > max_code_frames:
            kept = rng.choice(len(code_places), max_code_frames, replace=False)
            code_places = code_places[torch.from_numpy(kept)]
        columns = grid.transpose(1, 2).flatten(0, 1)  # [B * T, 1+K]
        firsts = [row * length for row in range(len(examples))]

        def places(found: Iterable[tuple[int, int]]) -> Tensor:
            spans = [torch.arange(start, start + number) for start, number in found]
            return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long)

        def told(name: str, numbers: dict[str, int]) -> tuple[Tensor, Tensor]:
            spans = [
                (r + c, names) for r, e in zip(firsts, examples) for c, names in getattr(e, name)
            ]
            targets = [numbers[syllable] for _, names in spans for syllable in names]
            return places((start, len(names)) for start, names in spans), torch.tensor(
                targets, dtype=torch.long
            )

        asked = [(r + c, self.questions[q]) for r, e in zip(firsts, examples) for c, q in e.asked]
        heard_places, heard = told("heard", self.heard)
        said_places, said = told("said", self.said)
        spelled = [(r + c, n, names) for r, e in zip(firsts, examples) for c, n, names in e.spelled]
        longest = max((n for _, n, _ in spelled), default=0)
        steps = torch.arange(longest)[:, None]
        starts = torch.tensor([start for start, _, _ in spelled], dtype=torch.long)
        lengths = torch.tensor([n for _, n, _ in spelled], dtype=torch.long)
        return Batch(
            grid=grid,
            users=padded(e.users for e in examples),
            replies=replies,
            word_places=word_places - 1,
            words=columns[word_places, 0].long(),
            word_weights=weights[word_places],
            code_places=code_places - 1,
            codes=columns[code_places, 1:].long(),
            question_places=torch.tensor([place for place, _ in asked], dtype=torch.long),
            questions=torch.tensor([question for _, question in asked], dtype=torch.long),
            heard_places=heard_places,
            heard=heard,
            said_places=said_places,
            said=said,
            spelled_places=starts + steps.minimum(lengths - 1),
            spelled_lengths=lengths,
            spelling_lengths=torch.tensor([len(n) for _, _, n in spelled], dtype=torch.long),
            spelled=torch.tensor(
                [self.heard[name] for _, _, names in spelled for name in names], dtype=torch.long
            ),
        )


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
