"""Train the classifier of transcripts, which has a say in what a reply is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger

from models.westlake.topics import TopicClassifier, write_topics

from ..dialogues import FOLLOWUPS, UNCLEAR, Dialogues
from ..speech.pinyin import plain_syllables
from .mishearing import Mishearing
from .tokenizer import heard_syllables
from .wording import CORRECTIONS, loosen

EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 256, 3e-3
LOOSE_SHARE, CORRECTED_SHARE = 0.5, 0.15
CLEAR_SHARE = 0.25  # of lines that are heard as they are
LOST_SHARE = 0.15  # of a line's n-grams, so that none is relied on
NUM_NOISES = 600  # in which nothing is said

Line = tuple[str, str]  # its text and its class


def train_topics(dialogues: Dialogues, path: Path, seed: int = 0, epochs: int = EPOCHS) -> None:
    """Learn the topics of all lines that users say, written down with errors.

    Follow-up questions are a class of each kind, whatever they ask on.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    classifier = TopicClassifier([*(intent.name for intent in dialogues.intents), *FOLLOWUPS])
    torch.nn.init.normal_(classifier.embedding.weight, std=0.05)
    mishearing = Mishearing(heard_syllables(dialogues))
    lines = [(text, intent.name) for intent in dialogues.intents for text in intent.users]
    lines += [(text, kind) for kind in FOLLOWUPS for text in dialogues.followups[kind][0]]
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / epochs, epochs - 1)
    for epoch in range(epochs):
        losses = []
        for names, batch in _batches(classifier, lines, mishearing, rng):
            wanted = torch.tensor([classifier.classes.index(name) for name in names])
            loss = F.cross_entropy(classifier(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        decay.step()
        right = held_out_share(classifier, dialogues)
        logger.info(f"topics, epoch {epoch}: loss {np.mean(losses):.3f}, held out {right:.3f}")
    write_topics(path, classifier)


def held_out_share(classifier: TopicClassifier, dialogues: Dialogues) -> float:
    """Of held-out lines without errors, those whose topic is told."""
    lines = [(text, intent.name) for intent in dialogues.intents for text in intent.held]
    told = [classifier.opinion(plain_syllables(text)).argmax() for text, _ in lines]
    return float(np.mean([classifier.classes[t] == name for t, (_, name) in zip(told, lines)]))


def _batches(
    classifier: TopicClassifier,
    lines: Sequence[Line],
    mishearing: Mishearing,
    rng: np.random.Generator,
) -> Iterator[tuple[list[str], list[list[int]]]]:
    """All lines once, in random order: classes and n-grams."""
    noises: list[Line] = [("", UNCLEAR)] * NUM_NOISES
    everything = [*lines, *noises]
    order = rng.permutation(len(everything))
    for start in range(0, len(order), BATCH_SIZE):
        names, batch = [], []
        for index in order[start : start + BATCH_SIZE]:
            text, name = everything[index]
            heard = _heard(text, name not in FOLLOWUPS, mishearing, rng)
            if not heard:
                continue
            bag = classifier.buckets(heard)
            kept = [bucket for bucket in bag if rng.random() >= LOST_SHARE]
            names.append(name)
            batch.append(kept or bag)
        if batch:
            yield names, batch


def _heard(text: str, may_correct: bool, mishearing: Mishearing, rng: np.random.Generator) -> list:
    """What is written down of a line; of none, what is heard in noise."""
    if not text:
        return mishearing.hear_noise(rng)
    if rng.random() < LOOSE_SHARE:
        text = loosen(text, rng)
    if may_correct and rng.random() < CORRECTED_SHARE:
        text = str(rng.choice(CORRECTIONS)) + text
    syllables = list(plain_syllables(text))
    return syllables if rng.random() < CLEAR_SHARE else mishearing.hear(syllables, rng)
