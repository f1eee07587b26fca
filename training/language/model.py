"""Train the small language model on conversations of codes.

First it learns to understand, from prompts and the replies' words, which decide all of what is said
at a fraction of the work of codes, and from questions alone, which decide the words; then to speak,
in two of five steps, while the others go on with both. Beside all that it learns what its `Heads`
ask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from models.tokenizer import load_tokenizer
from models.weights import read_weights
from models.westlake.dual_ar import DualARConfig, DualARTransformer

from ..codec.config import TINY_CODEC
from ..dialogues import EMOTIONS, Dialogues
from ..loop import Stage, autocast
from .batch import Batch
from .batches import Batches, BatchSizes, Corpus, Kind
from .conversations import Conversations
from .corpus import Spoken
from .heads import Heads
from .losses import losses, words_loss
from .tokenizer import emotion_token

# By the kind of device; and how many processes draw for it at most.
BATCH_SIZES = {
    "cpu": BatchSizes(questions=112, words=36, spoken=12, code_frames=1200),
    "cuda": BatchSizes(questions=896, words=224, spoken=72, code_frames=6000),
}
DRAWING_WORKERS = {"cpu": 0, "cuda": 12}
# What is learned, step by step, again and again. Between speech stand words, else the model would
# forget them for the codes.
UNDERSTANDING: tuple[Kind, ...] = ("words", "questions")
SPEAKING: tuple[Kind, ...] = ("words", "questions", "words", "spoken", "spoken")
VALIDATION_CONVERSATIONS = 12  # spoken, whose losses are logged
MAX_WORDS = 100  # tokens of a reply's words
STAGE = {
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "validate_seconds": 420,
    "matrices": lambda name: "layers." in name and name.endswith("weight") and "norm" not in name,
}


def new_language_model(tokenizer, seed: int = 0) -> DualARTransformer:
    """The embedded checkpoint's model, 22 M parameters, untrained."""
    config = DualARConfig(
        vocab_size=len(tokenizer),
        n_layer=8,
        n_head=6,
        dim=384,
        intermediate_size=1024,
        intermediate_size_fast=1024,
        n_local_heads=6,
        n_local_heads_fast=6,
        max_seq_len=2048,
        n_fast_layer=1,
        codebook_size=TINY_CODEC.codebook_size + 1,  # 0 is the pad
        num_codebooks=TINY_CODEC.num_codebooks,
    )
    torch.manual_seed(seed)
    model = DualARTransformer(config, tokenizer.get_vocab()["<|semantic|>"])
    # Codes of like numbers begin alike: what is learned of one is learned of its neighbours.
    numbers = code_numbers() / code_numbers().std(dim=0)
    for weight in (model.fast_embeddings.weight.data, model.fast_output.weight.data):
        directions = torch.randn(numbers.shape[1], config.dim) * config.initializer_range
        weight[1:] += numbers @ directions
    return model


class SharedLevels(nn.Module):
    """An embedding of codes as the sum of one vector for each of its numbers' levels.

    As weights of their own, thousands of codes would each have to be heard often enough; so what a
    level means is learned from all codes that have it. A parametrisation of an embedding's weight
    [K * codebook_size, dim], whose own parameter is [K, sum of the levels, dim].

    Args:
        num_codebooks: K; each has a pad code before its codes, which has no level.
    """

    levels: Tensor

    def __init__(self, num_codebooks: int) -> None:
        super().__init__()
        self.num_codebooks = num_codebooks
        sizes = TINY_CODEC.fsq_levels
        rows = [F.one_hot(n.long(), size) for n, size in zip(code_numbers().unbind(1), sizes)]
        levels = F.pad(torch.cat(rows, dim=1).float(), (0, 0, 1, 0))
        self.register_buffer("levels", levels, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """[K, L, dim] -> [K * codebook_size, dim]."""
        return (self.levels @ vectors).flatten(0, 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The vectors that come nearest to a weight."""
        parts = weight.unflatten(0, (self.num_codebooks, -1))
        return torch.linalg.pinv(self.levels) @ parts


def share_levels(model: DualARTransformer) -> DualARTransformer:
    """Let the embedding of what is heard be a sum over levels until `separate_levels`."""
    shared = SharedLevels(model.config.num_codebooks).to(model.device)
    # Not safe: its parameter has another shape than the weight.
    register_parametrization(model.codebook_embeddings, "weight", shared, unsafe=True)
    return model


def separate_levels(model: DualARTransformer) -> DualARTransformer:
    """The same model with an embedding of each code, as it is exported."""
    remove_parametrizations(model.codebook_embeddings, "weight")
    return model


def code_numbers() -> Tensor:
    """The numbers that the codes stand for, counted in steps: [codebook_size, levels]."""
    sizes = TINY_CODEC.fsq_levels
    return torch.cartesian_prod(*(torch.arange(size).float() for size in reversed(sizes))).flip(1)


def start_language_model(model: DualARTransformer, tokenizer, folder: Path) -> None:
    """Take over a checkpoint's weights: of the stacks, and of the tokens that both know.

    Codes are learned anew, as those of another codec mean something else; of a model of another
    width, all is.
    """
    weights = read_weights(folder / "model.safetensors")
    width = weights["embed_tokens.weight"].shape[1]
    if width != model.config.dim:
        logger.warning(
            f"{folder}: its language model is {width} wide, not {model.config.dim}: "
            "nothing of it is taken over"
        )
        return
    known = load_tokenizer(folder, weights["embed_tokens.weight"].shape[0]).get_vocab()
    own = model.state_dict()
    for name, weight in weights.items():
        if name in own and own[name].shape == weight.shape and "layers" in name:
            own[name] = weight.float()
    for token, row in tokenizer.get_vocab().items():
        if token in known:
            own["embed_tokens.weight"][row] = weights["embed_tokens.weight"][known[token]].float()
    model.load_state_dict(own)


def num_usable_cores() -> int:
    """Of the machine's, those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def draw_batches(
    corpus: Corpus, device: str, seed: int, order: Sequence[Kind]
) -> Iterator[Callable[[int], Batch]]:
    """A stage's batches by their number, their kinds in that order again and again, on its device;
    what draws ahead ends with the block."""
    device_type = torch.device(device).type
    workers = min(DRAWING_WORKERS[device_type], num_usable_cores() - 1)

    def kind_of(number: int) -> Kind:
        return order[number % len(order)]

    with closing(Batches(corpus, BATCH_SIZES[device_type], seed, kind_of, workers)) as batches:
        yield lambda number: batches(number).to(device)


def train_understanding(
    dialogues: Dialogues,
    tokenizer,
    work: Path,
    minutes: float,
    device: str,
    start: Path | None = None,
) -> None:
    """Learn the replies' words, and to tell what is heard; from what lies in `work`.

    Args:
        start: the folder of a checkpoint whose model is trained on; else from nothing.
    """
    corpus = Corpus(dialogues, tokenizer, work)
    model = new_language_model(tokenizer)
    if start is not None:
        start_language_model(model, tokenizer, start)
    model = share_levels(model).to(device)
    heads = Heads(model, corpus.labels).to(device)

    def validate(index: int) -> dict[str, float]:
        some = corpus.validation_users()
        with autocast(device):
            figures = understanding(model, corpus.conversations, some)
            written = understanding(model, corpus.conversations, some, "text")
        return figures | {"intent_text": written["intent"]}

    with draw_batches(corpus, device, 7, UNDERSTANDING) as batches:

        def step(index: int) -> Tensor:
            with autocast(device):
                return words_loss(model, heads, batches(index))

        Stage(
            name="understanding", folder=work, minutes=minutes, learning_rate=1.5e-3, **STAGE
        ).run({"model": model, "heads": heads}, step, validate)


def train_language_model(
    dialogues: Dialogues, tokenizer, work: Path, minutes: float, device: str
) -> None:
    """Learn to speak as well, from where `train_understanding` ended; in turn with more of that."""
    corpus = Corpus(dialogues, tokenizer, work)
    model = share_levels(new_language_model(tokenizer)).to(device)
    heads = Heads(model, corpus.labels).to(device)
    state = torch.load(work / "understanding.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["modules"]["model"])
    heads.load_state_dict(state["modules"]["heads"])

    fixed = corpus.fixed_batch(VALIDATION_CONVERSATIONS).to(device)

    def validate(index: int) -> dict[str, float]:
        some = corpus.validation_users()
        with autocast(device):
            figures = understanding(model, corpus.conversations, some)
            text_loss, code_loss = losses(model, fixed)
        return figures | {"text_loss": text_loss.item(), "code_loss": code_loss.item()}

    with draw_batches(corpus, device, 5, SPEAKING) as batches:

        def step(index: int) -> Tensor:
            with autocast(device):
                batch = batches(index)
                if not len(batch.code_places):
                    return words_loss(model, heads, batch)
                text_loss, code_loss = losses(model, batch)
                return text_loss + code_loss + heads.loss(batch)

        Stage(
            name="language_model", folder=work, minutes=minutes, learning_rate=1.5e-3, **STAGE
        ).run({"model": model, "heads": heads}, step, validate)


def load_language_model(path: Path, tokenizer) -> DualARTransformer:
    """The language model as `train_language_model` left it in its `.pt` file."""
    model = share_levels(new_language_model(tokenizer))
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["modules"]["model"])
    return separate_levels(model).eval()


@torch.no_grad()
def understanding(
    model: DualARTransformer,
    conversations: Conversations,
    users: Sequence[Spoken],
    inputs: str = "speech",
) -> dict[str, float]:
    """How well held-out lines are understood: emotion, and replies of the right intent.

    The words are decoded alone, as `words_loss` teaches them.
    """
    vocab = conversations.tokenizer.get_vocab()
    emotions = [vocab[emotion_token(emotion)] for emotion in EMOTIONS]
    known = set(conversations.replies)
    emotion_hits = intent_hits = 0
    for user in users:
        grid = conversations.prompt(user, inputs)[None]
        cache = model.new_cache(grid.shape[-1] + MAX_WORDS)
        words: list[int] = []
        text = ""
        while len(words) < MAX_WORDS and text not in known:
            hidden = model.forward_hidden(grid.to(model.device), [cache])
            logits = model.text_logits(hidden[0, -1:])[0]
            logits[model.semantic_id] = -torch.inf
            words.append(int(logits.argmax()))
            text = conversations.tokenizer.decode(words, skip_special_tokens=True)
            text = text.rstrip("\ufffd")  # the first bytes of a character
            if not any(reply.startswith(text) for reply in known):
                break
            grid = torch.zeros(1, 1 + conversations.num_codebooks, 1, dtype=torch.long)
            grid[0, 0] = words[-1]
        emotion_hits += words[0] == emotions[EMOTIONS.index(user.manner)]
        replies = conversations.intents[user.intent].replies.values()
        intent_hits += any(text in texts for texts in replies)
    number = max(1, len(users))  # none may be known yet
    return {"emotion": emotion_hits / number, "intent": intent_hits / number}
