"""A conversation as the model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Example:
    """One conversation as the model reads it, and what it learns from it; T columns.

    Fields:
        grid: [1+K, T] long, as in a prompt, replies included.
        learn_text: [T] float32, how much the column's text token is to be predicted, 0 not at all.
        learn_codes: [T] bool, the column's codes are to be predicted.
        users: [T] bool, the column is the user's, not a reply's.
        heard: (column, syllable to be told apart in each column from there) of what is spoken
            and not written besides.
        spelled: (first column, number of columns, syllables) of what is spoken and not written.
        asked: (column before the reply, what it replies to) of each turn; see `questions_of`.
        said: (column before the reply's words, syllable heard in each from there) of each spoken
            turn.
    """

    grid: Tensor
    learn_text: Tensor
    learn_codes: Tensor
    users: Tensor
    heard: list[tuple[int, Sequence[str]]]
    spelled: list[tuple[int, int, Sequence[str]]]
    asked: list[tuple[int, str]]
    said: list[tuple[int, Sequence[str]]]


def join(turns: Sequence[Example]) -> Example:
    """Turns one after another; the end token of a reply is where the next turn begins."""
    grids, texts, codes, users = [], [], [], []
    heard, spelled, asked, said, start = [], [], [], [], 0
    for index, turn in enumerate(turns):
        skip = 1 if index else 0  # a further prompt opens with the end token that stands already
        grids.append(turn.grid[:, skip:])
        texts.append(turn.learn_text[skip:])
        codes.append(turn.learn_codes[skip:])
        users.append(turn.users[skip:])
        shift = start - skip
        heard += [(column + shift, names) for column, names in turn.heard]
        spelled += [(column + shift, *rest) for column, *rest in turn.spelled]
        asked += [(column + shift, question) for column, question in turn.asked]
        said += [(column + shift, names) for column, names in turn.said]
        start += turn.grid.shape[1] - skip
    return Example(
        grid=torch.cat(grids, dim=1),
        learn_text=torch.cat(texts),
        learn_codes=torch.cat(codes),
        users=torch.cat(users),
        heard=heard,
        spelled=spelled,
        asked=asked,
        said=said,
    )
