"""Train the small language model on conversations of codes.

First it learns to understand, from prompts and the replies' words, which decide all of what is said
at a fraction of the work of codes; then to speak. Beside either it learns what its `Heads` ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.tokenizer import load_tokenizer
from models.weights import read_weights
from models.westlake.dual_ar import DualARConfig, DualARTransformer

from ..codec.config import TINY_CODEC
from ..dialogues import EMOTIONS, Dialogues
from ..loop import Stage, autocast
from ..recogniser.spelling import Spelling
from ..speech.pinyin import syllables
from .conversations import Conversations, Example, collate, questions_of
from .corpus import Spoken, read_spoken
from .heads import Heads
from .tokenizer import emotion_token

UNDERSTANDING_BATCH_SIZE = 36
SPEAKING_BATCH_SIZE = 12
POOL_BATCHES = 20  # drawn at once and sorted by length, so that batches need little padding
MAX_CODE_FRAMES = 1200  # frames a step whose codes are learned, drawn from the batch's replies
WORDS_OF_5_STEPS = 2  # of speaking, that learn words alone
VALIDATION_USERS = 24  # held out, that are answered then
MAX_WORDS = 100  # tokens of a reply's words
# Of the codes that the model reads in training, some are replaced by any others: of a reply's own
# as many that it learns to tell its speech from the words, and does not stumble over its errors.
CORRUPTED_SHARE, CORRUPTED_REPLY_SHARE, CORRUPTED_FRAME_SHARE = 0.1, 0.5, 0.5
STAGE = {"betas": (0.9, 0.95), "weight_decay": 0.05, "validate_seconds": 420}


def new_language_model(tokenizer, seed: int = 0) -> DualARTransformer:
    """The embedded checkpoint's model, 9 M parameters, untrained."""
    config = DualARConfig(
        vocab_size=len(tokenizer),
        n_layer=6,
        n_head=4,
        dim=256,
        intermediate_size=704,
        intermediate_size_fast=704,
        n_local_heads=4,
        n_local_heads_fast=4,
        max_seq_len=2048,
        n_fast_layer=1,
        codebook_size=TINY_CODEC.codebook_size + 1,  # 0 is the pad
        num_codebooks=TINY_CODEC.num_codebooks,
    )
    torch.manual_seed(seed)
    model = DualARTransformer(config, tokenizer.convert_tokens_to_ids("<|semantic|>"))
    # Codes of like numbers begin alike: what is learned of one is learned of its neighbours.
    numbers = code_numbers() / code_numbers().std(dim=0)
    codebooks = model.codebook_embeddings.weight.data.view(config.num_codebooks, -1, config.dim)
    for weight in (*codebooks, model.fast_embeddings.weight.data, model.fast_output.weight.data):
        directions = torch.randn(numbers.shape[1], config.dim) * config.initializer_range
        weight[1:] += numbers @ directions
    return model


def code_numbers() -> Tensor:
    """The numbers that the codes stand for, counted in steps: [codebook_size, levels]."""
    sizes = TINY_CODEC.fsq_levels
    return torch.cartesian_prod(*(torch.arange(size).float() for size in reversed(sizes))).flip(1)


def start_language_model(model: DualARTransformer, tokenizer, folder: Path) -> None:
    """Take over a checkpoint's weights: of the stacks, and of the tokens that both know.

    Codes are learned anew, as those of another codec mean something else.
    """
    weights = read_weights(folder / "model.safetensors")
    known = load_tokenizer(folder, weights["embed_tokens.weight"].shape[0]).get_vocab()
    own = model.state_dict()
    for name, weight in weights.items():
        if name in own and own[name].shape == weight.shape and "layers" in name:
            own[name] = weight.float()
    for token, row in tokenizer.get_vocab().items():
        if token in known:
            own["embed_tokens.weight"][row] = weights["embed_tokens.weight"][known[token]].float()
    model.load_state_dict(own)


class Corpus:
    """What lies in a work folder as training batches; what is added meanwhile is taken up."""

    def __init__(self, dialogues: Dialogues, tokenizer, work: Path) -> None:
        self.dialogues, self.tokenizer, self.work = dialogues, tokenizer, work
        self.heldout = list(read_spoken(work / "heldout_users"))
        self.num_files = 0
        self._pools: dict[bool, tuple[int, list[list[Example]]]] = {}
        self.refresh()

    def refresh(self) -> None:
        folders = [self.work / name for name in ("users", "sounds", "replies")]
        if (found := sum(len(list(folder.glob("*.pt"))) for folder in folders)) != self.num_files:
            users, sounds, replies = (list(read_spoken(folder)) for folder in folders)
            self.replies = replies
            self.conversations = Conversations(
                self.dialogues,
                [*users, *sounds],
                replies,
                self.tokenizer,
                TINY_CODEC.num_codebooks,
            )
            self.num_files = found
            self._pools.clear()  # so that a resumed training draws from the same

    def validation_users(self) -> list[Spoken]:
        """Some of the held-out users' lines, of all intents that have a reply already."""
        known = [user for user in self.heldout if user.intent in self.conversations.intents]
        return known[:: max(1, len(known) // VALIDATION_USERS)]

    def batch(self, step: int, batch_size: int, seed: int, speak: bool) -> list[Example]:
        """Conversations of about equal length together; the same step draws the same."""
        number, index = divmod(step, POOL_BATCHES)
        if self._pools.get(speak, (None,))[0] != number:
            rng = np.random.default_rng([seed, number])
            size = POOL_BATCHES * batch_size
            examples = [self.conversations.draw(rng, speak) for _ in range(size)]
            examples.sort(key=lambda e: e.grid.shape[1])
            batches = [examples[i : i + batch_size] for i in range(0, size, batch_size)]
            self._pools[speak] = number, [batches[i] for i in rng.permutation(POOL_BATCHES)]
        return self._pools[speak][1][index]


def new_heads(model: DualARTransformer, dialogues: Dialogues) -> Heads:
    """Heads that know all that is said and asked in training."""
    said = {text for intent in dialogues.intents for text in intent.users}
    said |= {text for users, _ in dialogues.followups.values() for text in users}
    replied = {
        text
        for intent in dialogues.intents
        for texts in (*intent.replies.values(), tuple(intent.then.values()))
        for text in texts
    }
    spoken = {"".join(syllable) for text in replied for syllable in syllables(text)}
    return Heads(
        model,
        Spelling(sorted(said | replied)),
        questions_of(dialogues.intents),
        ["", *sorted(spoken)],
    )


def train_understanding(
    dialogues: Dialogues,
    tokenizer,
    work: Path,
    minutes: float,
    device: str,
    start: Path | None = None,
) -> None:
    """Learn the replies' words, and to spell what is heard; from what lies in `work`.

    Args:
        start: the folder of a checkpoint whose model is trained on; else from nothing.
    """
    corpus = Corpus(dialogues, tokenizer, work)
    model = new_language_model(tokenizer).to(device)
    if start is not None:
        start_language_model(model, tokenizer, start)
    heads = new_heads(model, dialogues).to(device)

    def step(index: int) -> Tensor:
        with autocast(device):
            examples = corpus.batch(index, UNDERSTANDING_BATCH_SIZE, 7, speak=False)
            return words_loss(model, heads, examples, device)

    def validate(index: int) -> dict[str, float]:
        corpus.refresh()
        some = corpus.validation_users()
        with autocast(device):
            figures = understanding(model, corpus.conversations, some)
            written = understanding(model, corpus.conversations, some, "text")
        return figures | {"intent_text": written["intent"]}

    Stage(
        name="understanding",
        folder=work,
        minutes=minutes,
        learning_rate=1e-3,
        **STAGE,
    ).run({"model": model, "heads": heads}, step, validate)


def train_language_model(
    dialogues: Dialogues, tokenizer, work: Path, minutes: float, device: str
) -> None:
    """Learn to speak as well, from where `train_understanding` ended; in turn with more of that."""
    corpus = Corpus(dialogues, tokenizer, work)
    model = new_language_model(tokenizer).to(device)
    heads = new_heads(model, dialogues).to(device)
    state = torch.load(work / "understanding.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["modules"]["model"])
    heads.load_state_dict(state["modules"]["heads"])

    def step(index: int) -> Tensor:
        with autocast(device):
            if index % 5 < WORDS_OF_5_STEPS:  # else it would forget the words for the codes
                examples = corpus.batch(index, UNDERSTANDING_BATCH_SIZE, 5, speak=False)
                return words_loss(model, heads, examples, device)
            examples = corpus.batch(index, SPEAKING_BATCH_SIZE, 6, speak=True)
            text_loss, code_loss = losses(model, examples, device, np.random.default_rng(index))
            return text_loss + code_loss + heads.loss(examples)

    def validate(index: int) -> dict[str, float]:
        corpus.refresh()
        some = corpus.validation_users()
        with autocast(device):
            figures = understanding(model, corpus.conversations, some)
            fixed = np.random.default_rng(6)
            examples = [corpus.conversations.draw(fixed) for _ in range(SPEAKING_BATCH_SIZE)]
            text_loss, code_loss = losses(model, examples, device, fixed)
        return figures | {"text_loss": text_loss.item(), "code_loss": code_loss.item()}

    Stage(
        name="language_model",
        folder=work,
        minutes=minutes,
        learning_rate=1e-3,
        **STAGE,
    ).run({"model": model, "heads": heads}, step, validate)


def load_language_model(path: Path, tokenizer) -> DualARTransformer:
    """The language model as `train_language_model` left it in its `.pt` file."""
    model = new_language_model(tokenizer)
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["modules"]["model"])
    return model.eval()


def words_loss(
    model: DualARTransformer, heads: Heads, examples: Sequence[Example], device: str
) -> Tensor:
    """Cross-entropy of the replies' words, which are known to be no `<|semantic|>`, and the
    heads' loss."""
    grid, learn_text, _ = (x.to(device) for x in collate(examples))
    heard = _corrupt(grid[:, :, :-1], model.config.codebook_size, CORRUPTED_SHARE)
    text_loss = _text_loss(
        model, model.forward_hidden(heard), grid, learn_text, (model.semantic_id,)
    )
    return text_loss + heads.loss(examples)


def losses(
    model: DualARTransformer,
    examples: Sequence[Example],
    device: str,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the replies' text tokens, and of their codes."""
    grid, learn_text, learn_codes = (x.to(device) for x in collate(examples))
    codebook_size = model.config.codebook_size
    share = torch.where(learn_codes, CORRUPTED_REPLY_SHARE, CORRUPTED_SHARE)[:, None, :-1]
    hidden = model.forward_hidden(_corrupt(grid[:, :, :-1], codebook_size, share))
    text_loss = _text_loss(model, hidden, grid, learn_text)

    learn_codes = learn_codes[:, 1:]
    targets = grid[:, :, 1:].transpose(1, 2)  # [B, T, 1+K]
    rows, columns = learn_codes.nonzero(as_tuple=True)
    if len(rows) > MAX_CODE_FRAMES:
        kept = torch.from_numpy(rng.choice(len(rows), MAX_CODE_FRAMES, replace=False)).to(device)
        rows, columns = rows[kept], columns[kept]
    codes = targets[rows, columns, 1:]
    heard = _corrupt(codes[:, :-1], codebook_size, CORRUPTED_FRAME_SHARE)
    logits = model.forward_fast(hidden[rows, columns], heard)
    return text_loss, F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def _text_loss(
    model: DualARTransformer,
    hidden: Tensor,
    grid: Tensor,
    learn_text: Tensor,
    excluded: Sequence[int] = (),
) -> Tensor:
    """Cross-entropy of the text after hidden [B, T-1, dim], per token of words, not of speech."""
    learn_text = learn_text[:, 1:]
    targets = grid[:, 0, 1:][learn_text]
    logits = model.text_logits(hidden[learn_text]).float()
    logits[:, excluded] = -torch.inf
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return loss / (targets != model.semantic_id).sum()


def _corrupt(tokens: Tensor, codebook_size: int, share: Tensor | float) -> Tensor:
    """Replace a share of the codes by any others, so that the model bears errors.

    Args:
        tokens: grid [B, 1+K, T], whose text row stays as it is, or codes [N, K'].
    """
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    if tokens.dim() == 3:
        wrong[:, 0] = False
    return torch.where(wrong, torch.randint_like(tokens, 1, codebook_size), tokens)


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
    emotions = conversations.tokenizer.convert_tokens_to_ids([emotion_token(e) for e in EMOTIONS])
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
