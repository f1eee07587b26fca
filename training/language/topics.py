"""Train the classifiers of what is heard and written, which have a say in a reply's topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor

from models.westlake.topics import HEARD, WRITTEN, TopicClassifier, characters, write_topics

from ..dialogues import FOLLOWUPS, UNCLEAR, Dialogues
from ..speech.pinyin import plain_syllables
from .mishearing import Mishearing
from .tokenizer import heard_syllables
from .wording import as_said, reword

EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 512, 4e-3
LEAST_LINES = 2  # that an n-gram must stand in to be given a bucket
WORDINGS = 3  # in which each line is looked through for n-grams
INITIAL_STD = 0.05  # of embeddings
CLEAR_SHARE = 0.25  # of lines that are heard as they are
LOST_SHARES = {HEARD: 0.15, WRITTEN: 0.3}  # of a line's n-grams, so that none is relied on
NUM_NOISES = 600  # in which nothing is said

Line = tuple[str, str]  # its text and its class
Symbols = Callable[[str, np.random.Generator], Sequence[str]]


def train_topics(dialogues: Dialogues, path: Path, seed: int = 0, epochs: int = EPOCHS) -> None:
    """Learn the topics of all lines that users say, written down with errors; and as they write.

    The words that tell a topic are lines of it too. Follow-up questions are a class of each kind,
    whatever they ask on.
    """
    lines = [
        (text, intent.name)
        for intent in dialogues.intents
        for text in (*intent.users, *intent.words)
    ]
    lines += [(text, kind) for kind in FOLLOWUPS for text in dialogues.followups[kind][0]]
    noises: list[Line] = [("", UNCLEAR)] * NUM_NOISES
    mishearing = Mishearing(heard_syllables(dialogues))

    def heard(text: str, rng: np.random.Generator) -> Sequence[str]:
        if not text:
            return mishearing.hear_noise(rng)
        syllables = list(plain_syllables(text))
        return syllables if rng.random() < CLEAR_SHARE else mishearing.hear(syllables, rng)

    def written(text: str, rng: np.random.Generator) -> Sequence[str]:
        return characters(reword(text, rng))

    given = {HEARD: ([*lines, *noises], heard), WRITTEN: (lines, written)}
    classifiers = {
        kind: _learned(dialogues, kind, *given[kind], seed=seed, epochs=epochs) for kind in given
    }
    write_topics(path, classifiers)


def _learned(
    dialogues: Dialogues,
    kind: str,
    lines: Sequence[Line],
    symbols: Symbols,
    seed: int,
    epochs: int,
) -> TopicClassifier:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    classifier = TopicClassifier([*(intent.name for intent in dialogues.intents), *FOLLOWUPS])
    classifier.assign_buckets(_wordings(lines, symbols, rng), LEAST_LINES)
    torch.nn.init.normal_(classifier.embedding.weight, std=INITIAL_STD)
    classifier.embedding.sparse = True  # a batch has few of the buckets
    optimizers = [
        torch.optim.SparseAdam(classifier.embedding.parameters(), LEARNING_RATE),
        torch.optim.Adam(classifier.output.parameters(), LEARNING_RATE),
    ]
    decays = [
        torch.optim.lr_scheduler.LinearLR(each, 1.0, 1 / epochs, epochs - 1) for each in optimizers
    ]
    for epoch in range(epochs):
        losses = []
        for names, bags in _batches(classifier, lines, symbols, LOST_SHARES[kind], rng):
            wanted = torch.tensor([classifier.classes.index(name) for name in names])
            loss = F.cross_entropy(classifier(bags), wanted)
            classifier.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
        for decay in decays:
            decay.step()
        right = held_out_share(classifier, dialogues, kind)
        logger.info(f"{kind}, epoch {epoch}: loss {np.mean(losses):.3f}, held out {right:.3f}")
    return classifier


def _wordings(
    lines: Sequence[Line], symbols: Symbols, rng: np.random.Generator
) -> Iterator[list[Sequence[str]]]:
    """Each line as it may be put, `WORDINGS` times; those of which nothing is left, left out."""
    for text, name in lines:
        said = (as_said(text, name not in FOLLOWUPS, rng) for _ in range(WORDINGS))
        if told := [told for text in said if (told := symbols(text, rng))]:
            yield told


def held_out_share(classifier: TopicClassifier, dialogues: Dialogues, kind: str) -> float:
    """Of held-out lines without errors, those whose topic is told."""
    symbols = plain_syllables if kind == HEARD else characters
    lines = [(text, intent.name) for intent in dialogues.intents for text in intent.held]
    told = [classifier.opinion(symbols(text)).argmax() for text, _ in lines]
    return float(np.mean([classifier.classes[t] == name for t, (_, name) in zip(told, lines)]))


def _batches(
    classifier: TopicClassifier,
    lines: Sequence[Line],
    symbols: Symbols,
    lost_share: float,
    rng: np.random.Generator,
) -> Iterator[tuple[list[str], list[Tensor]]]:
    """All lines once, in random order: classes and buckets."""
    order = rng.permutation(len(lines))
    for start in range(0, len(order), BATCH_SIZE):
        names, bags = [], []
        for index in order[start : start + BATCH_SIZE]:
            text, name = lines[index]
            told = symbols(as_said(text, name not in FOLLOWUPS, rng), rng)
            if not told:
                continue
            bag = classifier.buckets(told)
            kept = bag[torch.from_numpy(rng.random(len(bag)) >= lost_share)]
            names.append(name)
            bags.append(kept if len(kept) else bag)
        if bags:
            yield names, bags
