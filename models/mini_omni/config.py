"""Mini-Omni's sizes and special tokens, from the published model_config.yaml."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..files import MAX_LAYERS, MAX_SIZE, naming
from ..transformer import StackConfig

CONFIG_FILE = "model_config.yaml"
NUM_CODEBOOKS = 7  # of a frame: SNAC's three levels have 1, 2 and 4 codes in it
NUM_ROWS = 1 + NUM_CODEBOOKS  # of a column: the text token, then the codes
NUM_SPECIAL = 64  # ids at the end of a row's vocabulary that are no text and no code
LEAST = {"block_size": 32}  # columns: a prompt, a frame's delay and some frames take more
LIMITS = {"n_layer": MAX_LAYERS, "block_size": 1 << 16}
# Of the other settings in that file, those that no key or shape of the weights tells.
COMPUTED = {
    "norm_class_name": "RMSNorm",
    "parallel_residual": False,
    "rope_condense_ratio": 1,
    "rotary_percentage": 1,
    "scale_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class MiniOmniConfig:
    """Sizes of a MiniOmniTransformer; the names are the keys of the published file.

    The defaults are the published sizes. `n_query_groups` counts key/value heads; the ear's
    features have `whisper_adapter_dim` numbers.

    Raises:
        ValueError: sizes that do not fit together.
    """

    n_layer: int = 24
    n_head: int = 14
    n_query_groups: int = 2
    n_embd: int = 896
    intermediate_size: int = 4864
    block_size: int = 2048
    rope_base: float = 1_000_000.0
    norm_eps: float = 1e-6
    text_vocab_size: int = 152_000
    audio_vocab_size: int = 4160
    whisper_adapter_dim: int = 768

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            bound = NUM_SPECIAL if "vocab" in name else LEAST.get(name, 0)
            if getattr(self, name) <= bound:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above {bound}")
        if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n_embd {self.n_embd} must be n_head {self.n_head} times an even size of a head"
            )
        if self.n_head % self.n_query_groups:
            raise ValueError(
                f"n_query_groups is {self.n_query_groups}, but must divide n_head {self.n_head}"
            )

    @property
    def vocab_size(self) -> int:
        """Of all rows together, the text first."""
        return self.text_vocab_size + NUM_CODEBOOKS * self.audio_vocab_size

    @property
    def stack(self) -> StackConfig:
        return StackConfig(
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_local_heads=self.n_query_groups,
            dim=self.n_embd,
            intermediate_size=self.intermediate_size,
            qkv_bias=True,
            max_seq_len=self.block_size,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
        )

    @property
    def text(self) -> SpecialTokens:
        return SpecialTokens(self.text_vocab_size - NUM_SPECIAL)

    @property
    def audio(self) -> SpecialTokens:
        return SpecialTokens(self.audio_vocab_size - NUM_SPECIAL)


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of a row that are no text and no code, in their published order.

    Fields:
        end: of what the user says or the model answers; from here on, ids are special.
    """

    end: int

    @property
    def pad(self) -> int:
        return self.end + 1

    @property
    def input(self) -> int:
        """Before what the user says."""
        return self.end + 2

    @property
    def answer(self) -> int:
        """Before what the model answers."""
        return self.end + 3


def read_config(path: Path) -> MiniOmniConfig:
    """Read the published file, in which other programs' settings stand too.

    Raises:
        ValueError: it is missing or damaged; a size that can't be; a model that computes
            something else.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: fetch or copy the checkpoint again")
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # a foreign file can make the parser raise anything
        raise ValueError(f"{path} is damaged ({error}): fetch or copy it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold names and values, got a {type(values).__name__}")
    for key, allowed in COMPUTED.items():
        if values.get(key, allowed) != allowed:
            raise ValueError(f"{path}: {key} is {values[key]!r}, but only {allowed!r} is computed")
    known = {field.name: field.type for field in fields(MiniOmniConfig)}
    given = {key: value for key, value in values.items() if key in known}
    for key, value in given.items():
        kinds = (int,) if known[key] == "int" else (int, float)
        limit = LIMITS.get(key, MAX_SIZE)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value <= limit:
            raise ValueError(f"{path}: {key} is {value!r}, allowed are numbers up to {limit}")
    with naming(path):
        config = MiniOmniConfig(**given)
    if values.get("padded_vocab_size", config.vocab_size) != config.vocab_size:
        raise ValueError(
            f"{path}: padded_vocab_size is {values['padded_vocab_size']}, but a text vocabulary of "
            f"{config.text_vocab_size} and {NUM_CODEBOOKS} of {config.audio_vocab_size} codes are "
            f"{config.vocab_size}"
        )
    return config
