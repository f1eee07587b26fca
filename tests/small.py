"""A small random model that speaks the embedded checkpoint's tokens, and ways to rig it."""

import copy
import dataclasses
from collections.abc import Callable, Iterable

import torch

from models.hub import TINY
from models.tokenizer import load_tokenizer, mark_ids, special_words
from models.westlake.checkpoint import Checkpoint
from models.westlake.dual_ar import DualARConfig, DualARTransformer, EagerEngine, SamplingConfig
from models.westlake.firefly import FireflyArchitecture
from models.westlake.speech_model import WestlakeModel

MARK_LOGIT = 2.0  # added to every mark's, so that every second column or so is one


def small_model(codec: FireflyArchitecture, **changes) -> WestlakeModel:
    """A seeded random language model in front of a codec.

    Args:
        codec: any with the usual 8 codebooks.
        changes: to the language model's config.
    """
    tokenizer = load_tokenizer(TINY, 10**6)
    semantic_id, end_id = (tokenizer.get_vocab()[token] for token in ("<|semantic|>", "<|im_end|>"))
    sizes = {
        # It writes nothing down of what it hears: the tokens for that, the last ones, are left out.
        "vocab_size": len(tokenizer) - len(special_words(tokenizer, "heard")),
        "n_layer": 2,
        "n_head": 2,
        "dim": 32,
        "intermediate_size": 48,
        "max_seq_len": 256,
        "n_fast_layer": 1,
        "codebook_size": codec.config.codebook_size + 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Weights far from zero: what is said depends on what was heard.
        config = DualARConfig(**{**sizes, "initializer_range": 0.3, **changes})
        model = DualARTransformer(config, semantic_id)
    checkpoint = Checkpoint(
        name="small",
        engine=EagerEngine(model.eval().requires_grad_(False)),
        codec=codec,
        tokenizer=tokenizer,
        semantic_id=semantic_id,
        end_id=end_id,
        device=torch.device("cpu"),
        dtype="float32",
        sampling=SamplingConfig(),
        emotion_ids=special_words(tokenizer, "user"),
        style_ids=special_words(tokenizer, "style"),
        topic_ids=special_words(tokenizer, "topic"),
        heard_ids={},
        mark_ids=frozenset(),
        character_ids=frozenset(),
        topic_leaning=None,
        mood_leaning=None,
        syllables=None,
        fingerprint="small",
    )
    return WestlakeModel(checkpoint)


def marking(model: WestlakeModel) -> WestlakeModel:
    """The same, but what the embedded checkpoint writes without speaking it doesn't speak either,
    and it often does so."""
    tokenizer, plain = model.checkpoint.tokenizer, model.checkpoint.model.text_logits
    heard = special_words(tokenizer, "heard").values()
    marks = sorted(mark_ids(tokenizer).difference(heard))
    likelier = torch.zeros(model.checkpoint.model.config.vocab_size)
    likelier[marks] = MARK_LOGIT
    marked = rigged(model, text_logits=lambda hidden: plain(hidden) + likelier)
    return WestlakeModel(dataclasses.replace(marked.checkpoint, mark_ids=frozenset(marks)))


def rigged(model: WestlakeModel, **methods: Callable) -> WestlakeModel:
    """The same with methods of its language model replaced; the weights are shared."""
    language_model = copy.copy(model.checkpoint.model)
    for name, method in methods.items():
        setattr(language_model, name, method)
    return WestlakeModel(dataclasses.replace(model.checkpoint, engine=EagerEngine(language_model)))


def speaking(model: WestlakeModel, tokens: Iterable[int]) -> WestlakeModel:
    """The same, but it says these text tokens, one a frame, and then the end token."""
    script, checkpoint = iter(tokens), model.checkpoint

    def text_logits(hidden):
        logits = torch.zeros(*hidden.shape[:-1], checkpoint.model.config.vocab_size)
        logits[..., next(script, checkpoint.end_id)] = 1000
        return logits

    return rigged(model, text_logits=text_logits)
