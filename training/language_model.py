"""Train the small language model on conversations of codes.

Beside the reply's text and codes it learns to spell what it hears: a CTC head (Graves et al., 2006)
on an inner layer predicts the syllables of the user's speech. The head is not part of the
checkpoint; it makes the layers below listen to the words, which replies alone teach slowly.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dual_ar import DualARConfig, DualARTransformer

from .codec import TINY_CODEC
from .conversations import Conversations, Example, collate
from .corpus import Spoken, read_shards, user_lines
from .dialogues import EMOTIONS, Dialogues
from .loop import Stage
from .spelling import Speller, Syllable, read_lines

BATCH_SIZE = 12
POOL_SIZE = 240  # examples drawn at once and sorted by length, so that batches need little padding
MAX_CODE_FRAMES = 800  # frames a step whose codes are learned, drawn from the batch's replies
CORRUPTED_SHARE = 0.04  # of the codes that the model reads in training
LISTENING_LAYER = 3  # its output is what the CTC head reads
LISTENING_WEIGHT = 0.3


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
    return DualARTransformer(config, tokenizer.convert_tokens_to_ids("<|semantic|>"))


class Listener(nn.Module):
    """The CTC head, which reads the hidden states of one inner layer."""

    def __init__(
        self, model: DualARTransformer, readings: Mapping[str, Sequence[Syllable]]
    ) -> None:
        super().__init__()
        self.speller = Speller(model.config.dim, readings)
        self.hidden: Tensor | None = None
        model.layers[LISTENING_LAYER].register_forward_hook(self._keep)

    def _keep(self, module, args, output: Tensor) -> None:
        self.hidden = output

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Mean CTC loss per unit over what the last forward pass heard."""
        spans = [(row, *heard) for row, e in enumerate(examples) for heard in e.heard]
        if not spans:
            return self.hidden.new_zeros(())
        rows = self.hidden.unflatten(0, (len(examples), -1))  # [B, T, dim]
        heard = [rows[row, start:end] for row, start, end, _ in spans]
        return self.speller.loss(heard, [[text] for *_, text in spans])


def train_language_model(
    dialogues: Dialogues,
    tokenizer,
    users: Path,
    heldout_users: Path,
    replies: Path,
    folder: Path,
    minutes: float,
    device: str,
) -> None:
    """Train on the shards in `users` and `replies`; shards added meanwhile are taken up."""
    model = new_language_model(tokenizer).to(device)
    config = model.config
    spoken_replies = list(read_shards(replies))
    heldout = [user for user in read_shards(heldout_users) if not user.intent.startswith("follow")]
    texts = sorted({text for _, text, _ in user_lines(dialogues, heldout=False)})
    listener = Listener(model, read_lines(texts)).to(device)
    rng = np.random.default_rng(5)
    conversations: Conversations | None = None
    num_shards = 0
    pool: list[list[Example]] = []

    def refresh() -> None:
        nonlocal conversations, num_shards
        if (found := len(list(users.glob("*.pt")))) != num_shards:
            spoken = read_shards(users)
            conversations = Conversations(
                dialogues, spoken, spoken_replies, tokenizer, config.num_codebooks
            )
            num_shards = found

    def step(index: int) -> Tensor:
        if not pool:
            drawn = sorted(
                (conversations.draw(rng) for _ in range(POOL_SIZE)), key=lambda e: e.grid.shape[1]
            )
            batches = [drawn[i : i + BATCH_SIZE] for i in range(0, POOL_SIZE, BATCH_SIZE)]
            pool.extend(batches[i] for i in rng.permutation(len(batches)))
        examples = pool.pop()
        with torch.autocast(device, torch.bfloat16):
            text_loss, code_loss = losses(model, examples, device, rng)
            return text_loss + code_loss + LISTENING_WEIGHT * listener.loss(examples)

    def validate(index: int) -> dict[str, float]:
        refresh()
        with torch.autocast(device, torch.bfloat16):
            figures = understanding(model, conversations, heldout[:: max(1, len(heldout) // 66)])
            fixed = np.random.default_rng(6)
            examples = [conversations.draw(fixed) for _ in range(BATCH_SIZE)]
            text_loss, code_loss = losses(model, examples, device, fixed)
        return figures | {"text_loss": text_loss.item(), "code_loss": code_loss.item()}

    refresh()
    Stage(
        name="language_model",
        folder=folder,
        minutes=minutes,
        learning_rate=1e-3,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        validate_seconds=300,
    ).run({"model": model, "listener": listener}, step, validate)


def load_language_model(path: Path, tokenizer) -> DualARTransformer:
    """The language model as `train_language_model` left it in its `.pt` file."""
    model = new_language_model(tokenizer)
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["modules"]["model"])
    return model.eval()


def losses(
    model: DualARTransformer,
    examples: Sequence[Example],
    device: str,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the replies' text tokens, and of their codes."""
    grid, learn_text, learn_codes = (x.to(device) for x in collate(examples))
    hidden = model.forward_hidden(_corrupt(grid[:, :, :-1], model.config.codebook_size))
    learn_text, learn_codes = learn_text[:, 1:], learn_codes[:, 1:]
    targets = grid[:, :, 1:].transpose(1, 2)  # [B, T, 1+K]

    text_targets = targets[..., 0][learn_text]
    text_loss = (
        F.cross_entropy(
            model.text_logits(hidden[learn_text]).float(), text_targets, reduction="sum"
        )
        / (text_targets != model.semantic_id).sum()
    )

    rows, columns = learn_codes.nonzero(as_tuple=True)
    if len(rows) > MAX_CODE_FRAMES:
        kept = torch.from_numpy(rng.choice(len(rows), MAX_CODE_FRAMES, replace=False)).to(device)
        rows, columns = rows[kept], columns[kept]
    codes = targets[rows, columns, 1:]
    heard = _corrupt(codes[:, :-1], model.config.codebook_size)
    logits = model.forward_fast(hidden[rows, columns], heard)
    return text_loss, F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def _corrupt(tokens: Tensor, codebook_size: int) -> Tensor:
    """Replace a few codes by any others, so that the model can go on after errors of its own.

    Args:
        tokens: grid [B, 1+K, T], whose text row stays as it is, or codes [N, K'].
    """
    wrong = torch.rand(tokens.shape, device=tokens.device) < CORRUPTED_SHARE
    if tokens.dim() == 3:
        wrong[:, 0] = False
    return torch.where(wrong, torch.randint_like(tokens, 1, codebook_size), tokens)


@torch.no_grad()
def understanding(
    model: DualARTransformer, conversations: Conversations, users: Sequence[Spoken]
) -> dict[str, float]:
    """How well held-out speech is understood: emotion, and replies of the right intent.

    Words do not depend on codes (the model reads none beneath text), so the text is decoded alone.
    """
    emotions = conversations.tokenizer.convert_tokens_to_ids([f"<|user:{e}|>" for e in EMOTIONS])
    emotion_hits = intent_hits = 0
    for user in users:
        grid = conversations.prompt(user, "speech")[None]
        cache = model.new_cache(grid.shape[-1] + 64)
        words: list[int] = []
        while len(words) < 60:
            hidden = model.forward_hidden(grid.to(model.device), [cache])
            token = int(model.text_logits(hidden[0, -1]).argmax())
            if token in (conversations.tokens.semantic, conversations.tokens.end):
                break
            words.append(token)
            grid = torch.zeros(1, 1 + conversations.num_codebooks, 1, dtype=torch.long)
            grid[0, 0] = token
        emotion_hits += bool(words) and words[0] == emotions[EMOTIONS.index(user.manner)]
        text = conversations.tokenizer.decode(words, skip_special_tokens=True)
        replies = conversations.intents[user.intent].replies.values()
        intent_hits += any(text in texts for texts in replies)
    return {"emotion": emotion_hits / len(users), "intent": intent_hits / len(users)}
