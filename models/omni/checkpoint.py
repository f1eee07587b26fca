"""A Qwen2.5-Omni checkpoint: compared key by key at once, its parts loaded when first used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2_5OmniForConditionalGeneration
from transformers.initialization import no_init_weights

from ..devices import FLOATS, QUANTISED, check_dtype, find_device, multiplies_bfloat16
from ..errors import UserError
from ..files import naming
from ..hub import find_folder
from ..tokenizer import TextTokenizer, load_tokenizer
from ..transformer.graphs import are_wanted
from ..transformer.native import load_library
from ..transformer.quantisation import layers_fit_4_bits, quantise_layers
from ..weights import fingerprint
from .cache import KVCache
from .config import quiet, read_config
from .folder import FETCHED, WeightFiles, read_voices
from .graphs import GraphedStep, checked, eager_step

MARKS = {  # special tokens, and what config.json calls them
    "<|AUDIO|>": "audio_token_index",
    "<|IMAGE|>": "image_token_index",
    "<|VIDEO|>": "video_token_index",
    "<|audio_bos|>": "audio_start_token_id",
    "<|audio_eos|>": "audio_end_token_id",
    "<|vision_bos|>": "vision_start_token_id",
    "<|vision_eos|>": "vision_end_token_id",
}
LARGE_MODEL = 1_000_000_000  # weights: reading them is what a CPU does most of the time
TURN_MARKS = ("<|im_start|>", "<|im_end|>")


class Checkpoint:
    """A folder's config, tokenizer and voices, and its parts.

    A part is loaded when it is first asked for, so a use of text alone never holds the parts
    that speak. Its modules are in eval mode and ask for no gradients. The language models are of
    `dtype`, the towers too, or bfloat16 where it has few bits; token2wav is float32.

    Args:
        name: as it was asked for.
        folder: in the published layout.
        device: of all parts.
        dtype: one of `devices.DTYPES`, or "auto" for what is fastest.

    Raises:
        ValueError: a file that is missing, damaged, or does not fit the others.
    """

    def __init__(self, name: str, folder: Path, device: torch.device, dtype: str) -> None:
        self.name, self.folder, self.device = name, folder, device
        self.config = read_config(folder)
        self.files = WeightFiles(folder)
        with naming(folder / "config.json"), quiet(), no_init_weights(), torch.device("meta"):
            self._model = Qwen2_5OmniForConditionalGeneration(self.config)
        expected = self._model.state_dict()
        tables = {key for key, _ in self._model.named_buffers()} - expected.keys()
        self.files.check(expected, tables)
        self.num_parameters = sum(x.numel() for x in self._model.parameters())
        self.dtype = self._fastest_dtype() if dtype == "auto" else dtype
        self._check_dtype()
        self.tokenizer = _read_tokenizer(folder, self.thinker_config)
        self.voices: dict[str, dict[str, Any]] = {}
        if self.speaks:
            dit = self.config.token2wav_config.dit_config
            self.voices = read_voices(folder, dit.mel_dim, dit.enc_emb_dim)
            self._check_voices()
        self.fingerprint = fingerprint(self.files.files)
        self._lock = RLock()
        self._loaded: dict[str, Any] = {}
        self._graphed: dict[nn.Module, GraphedStep] = {}

    @property
    def thinker_config(self):
        """Of the part that hears, sees and writes."""
        return self.config.thinker_config

    @property
    def speaks(self) -> bool:
        """It has the parts that speak."""
        return self._model.has_talker

    @property
    def talker_is_loaded(self) -> bool:
        return "talker" in self.__dict__

    @cached_property
    def language_model(self) -> PreTrainedModel:
        loaded = self._load("thinker.model", self._model.thinker.model, few_bits=self.dtype)
        self._record_steps(loaded)
        return loaded

    @cached_property
    def lm_head(self) -> nn.Module:
        return self._load("thinker.lm_head", self._model.thinker.lm_head, few_bits="int8")

    @cached_property
    def audio_tower(self) -> PreTrainedModel:
        return self._load("thinker.audio_tower", self._model.thinker.audio_tower)

    @cached_property
    def vision_tower(self) -> PreTrainedModel:
        return self._load("thinker.visual", self._model.thinker.visual)

    @cached_property
    def talker(self) -> transformers.Qwen2_5OmniTalkerForConditionalGeneration:
        loaded = self._load("talker", self._model.talker, few_bits=self.dtype)
        self._record_steps(loaded.model)
        return loaded

    @cached_property
    def token2wav(self) -> transformers.Qwen2_5OmniToken2WavModel:
        return self._load("token2wav", self._model.token2wav, torch.float32)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """The thinker's embeddings [n, C] of ids [n]."""
        return self.language_model.get_input_embeddings()(ids.to(self.device))

    def step(self, model: Any, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Let one of the two language models read on, see `eager_step`; quickly where it can be."""
        if len(inputs) == 1 and (graphed := self._graphed.get(model)):
            return graphed(inputs, positions, cache)
        return eager_step(model, inputs, positions, cache)

    def new_caches(self) -> tuple[KVCache, KVCache]:
        """Of the thinker, and of the talker (which has no layers where there is none)."""
        num_layers = self.thinker_config.text_config.num_hidden_layers
        return KVCache(num_layers), KVCache(self.config.talker_config.num_hidden_layers)

    def _load(
        self, prefix: str, module: Any, dtype: torch.dtype | None = None, few_bits: str = ""
    ) -> Any:
        """A part of the model; its linear layers of `few_bits` where the model is of few bits."""
        with self._lock:
            if prefix not in self._loaded:
                self.files.load(f"{prefix}.", module, dtype or self._float_dtype)
                compute_tables(module)
                module.to(self.device).eval().requires_grad_(False)
                if self.dtype in QUANTISED and few_bits:
                    module = quantise_layers(module, few_bits, load_library())
                self._loaded[prefix] = module
            return self._loaded[prefix]

    def _record_steps(self, model: Any) -> None:
        """Record a language model's steps, where they can be recorded and are then the same."""
        if are_wanted(self.device) and (graphed := checked(GraphedStep(model), model)):
            self._graphed[model] = graphed

    @property
    def _float_dtype(self) -> torch.dtype:
        return FLOATS.get(self.dtype, torch.bfloat16)

    def _fastest_dtype(self) -> str:
        if self.device.type == "cuda":
            return "bfloat16"
        if self.num_parameters >= LARGE_MODEL and load_library() is not None:
            return "int8"
        is_stored = self.files.stored.get("thinker.lm_head.weight") == "BF16"
        return "bfloat16" if is_stored and multiplies_bfloat16(self.device) else "float32"

    def _check_dtype(self) -> None:
        parts = [self._model.thinker.model, *([self._model.talker] if self.speaks else [])]
        if self.dtype == "int4" and not all(map(layers_fit_4_bits, parts)):
            raise UserError("error_dtype_sizes", name=self.dtype)

    def _check_voices(self) -> None:
        limit = self.thinker_config.text_config.vocab_size
        for name, voice in self.voices.items():
            if not 0 <= voice["bos_token"] < limit:
                raise ValueError(
                    f"{self.folder}: the voice {name!r} begins with the token "
                    f"{voice['bos_token']}, but the model has {limit}: fetch spk_dict.pt again"
                )


def compute_tables(module: nn.Module) -> None:
    """Fill what no file holds: the rotary frequencies, positions and filters."""
    for owner in module.modules():
        if not isinstance(owner, PreTrainedModel):
            continue
        for part in owner.modules():
            if any(buffer.is_meta for buffer in part.buffers(recurse=False)):
                part.to_empty(device="cpu", recurse=False)
                owner._init_weights(part)


def _read_tokenizer(folder: Path, config) -> TextTokenizer:
    tokenizer = load_tokenizer(folder, config.text_config.vocab_size, (*MARKS, *TURN_MARKS))
    ids = tokenizer.get_added_vocab()
    for token, key in MARKS.items():
        if ids[token] != getattr(config, key):
            raise ValueError(
                f"the tokenizer in {folder} gives {token} the id {ids[token]}, but config.json "
                f"says {key} {getattr(config, key)}: use the tokenizer that belongs to the model"
            )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Ids that the prompt and the replies are made of.

    Fields:
        turn_begin, turn_end: of <|im_start|> and <|im_end|>.
        ends: that end a reply.
        sound, picture, video: that stand for what a tower made.
        sound_marks, picture_marks: before and behind those.
    """

    turn_begin: int
    turn_end: int
    ends: frozenset[int]
    sound: int
    picture: int
    video: int
    sound_marks: tuple[int, int]
    picture_marks: tuple[int, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Tokens:
        config = checkpoint.thinker_config
        begin, end = (checkpoint.tokenizer.get_added_vocab()[mark] for mark in TURN_MARKS)
        ends = getattr(config, "eos_token_id", None)
        return cls(
            turn_begin=begin,
            turn_end=end,
            ends=frozenset([end] if ends is None else [ends] if isinstance(ends, int) else ends),
            sound=config.audio_token_index,
            picture=config.image_token_index,
            video=config.video_token_index,
            sound_marks=(config.audio_start_token_id, config.audio_end_token_id),
            picture_marks=(config.vision_start_token_id, config.vision_end_token_id),
        )


def load_checkpoint(
    name_or_path: str | os.PathLike, device: str, dtype: str, revision: str | None
) -> Checkpoint:
    """Find, fetch, check and load a checkpoint; see `models.load.load_model`."""
    torch_device = find_device(device)
    check_dtype(dtype, torch_device)
    folder = find_folder(name_or_path, revision, FETCHED)
    return Checkpoint(str(name_or_path), folder, torch_device, dtype)
