"""Checkpoints, loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..devices import FLOATS, QUANTISED, check_dtype, find_device
from ..files import naming
from ..tokenizer import TextTokenizer, character_ids, load_tokenizer, mark_ids, special_words
from ..transformer.native import compile_library, load_library
from ..transformer.quantisation import prepare_quantised, quantise_weights, with_quantised_layers
from ..weights import (
    assign_weights,
    fingerprint,
    give_back_large_blocks,
    planned,
    read_weights,
)
from .calibration import calibrate
from .checkpoint_files import (
    CODEC_FILES,
    PUBLISHED_CODEC,
    ModelWeights,
    find_checkpoint,
    find_file,
    read_config,
    read_model,
    read_sampling,
    weight_files,
)
from .dual_ar import DualARConfig, DualARTransformer, EagerEngine, SamplingConfig, choose_engine
from .fastest import LARGE_MODEL, fastest_dtype
from .firefly import FireflyArchitecture, FireflyConfig
from .moods import MOODS_FILE, MoodLeaning, read_moods
from .syllables import SYLLABLES_FILE, SyllableModel, read_syllables
from .topics import TOPICS_FILE, TopicLeaning, read_topics


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A language model, the engine that makes its frames, its codec and its tokenizer.

    The modules are in eval mode and ask for no gradients. `dtype` is the language model's, one of
    `DTYPES` of models/devices.py; the codec is float32, but where the model is not and bfloat16 is
    faster, the vocoder is that; in C the latents are computed so too.
    `emotion_ids`, `style_ids`, `topic_ids` and `heard_ids` give the token of each word in the
    tokenizer's `<|user:word|>`, `<|style:word|>`, `<|topic:word|>` and `<|heard:syllable|>`;
    `mark_ids` are these and all others that a reply writes without speaking, see `dual_ar.Reply`.
    All five are empty where it has none. `character_ids` are its tokens of one Chinese character;
    empty where it has no marks, as only then do characters stand beside their speech.
    `topic_leaning` is the say that a turn's words have in a reply's topic, `mood_leaning` that of
    its voice in the emotion, and `syllables` tells which of those that are heard follow which; None
    where it has none.
    `fingerprint` tells the files' contents from others'.
    """

    name: str
    engine: EagerEngine
    codec: FireflyArchitecture
    tokenizer: TextTokenizer
    semantic_id: int
    end_id: int
    device: torch.device
    dtype: str
    sampling: SamplingConfig
    emotion_ids: dict[str, int]
    style_ids: dict[str, int]
    topic_ids: dict[str, int]
    heard_ids: dict[str, int]
    mark_ids: frozenset[int]
    character_ids: frozenset[int]
    topic_leaning: TopicLeaning | None
    mood_leaning: MoodLeaning | None
    syllables: SyllableModel | None
    fingerprint: str

    @property
    def model(self) -> DualARTransformer:
        return self.engine.model

    @property
    def num_parameters(self) -> int:
        """Of the language model and the codec."""
        return self.model.num_parameters + sum(x.numel() for x in self.codec.parameters())

    @property
    def is_large(self) -> bool:
        """The model is so large that reading its weights is what a CPU does most of the time."""
        return self.model.num_parameters >= LARGE_MODEL

    @property
    def decodes_beside(self) -> bool:
        """Sound is decoded beside the next frames: in C, which shares the cores out; or by PyTorch,
        which does not, if there is little to be done."""
        is_codec_in_c = not self.codec.compiles_sizes
        return self.engine.name == "native" and (is_codec_in_c or not self.is_large)


def load_checkpoint(
    name_or_path: str | os.PathLike = "tiny",
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
) -> Checkpoint:
    """Find, fetch, check and load a checkpoint.

    Args:
        name_or_path: a folder, in the published layout or as `save_checkpoint` writes it; else
            "tiny", which comes with this repository; else a Hugging Face id as "owner/name".
        device: "cpu", "cuda" or "auto", which is CUDA where there is one.
        dtype: of the language model; "float32", "bfloat16", on the CPU also "int8" or "int4", which
            quantise it, or "auto": as it is stored if that is quantised, else what is fastest:
            bfloat16 on CUDA; on the CPU int8, but int4 for large models where memory is too slow
            for int8 to speak in real time, and float32 for small ones that do not step in C.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        ValueError: an unknown name, device or dtype; a file that is missing, damaged, or does not
            fit the others.
        RuntimeError: the download failed.
    """
    torch_device = find_device(device)
    check_dtype(dtype, torch_device)
    give_back_large_blocks()
    folder = find_checkpoint(os.fspath(name_or_path), revision)
    may_use_library = dtype != "float32" and torch_device.type == "cpu"
    if may_use_library:
        compile_library()
    config, sampling = read_config(folder / "config.json", DualARConfig), read_sampling(folder)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    special, marks = tokenizer.get_added_vocab(), mark_ids(tokenizer)
    semantic_id, end_id = special["<|semantic|>"], special["<|im_end|>"]
    codec = _load_codec(folder, config)  # first: meanwhile the C file is compiled
    library = load_library() if may_use_library else None
    model = _load_model(
        folder, config, tokenizer, dtype, torch_device, library, codec.config.frame_rate
    )
    codec = codec.to(torch_device).eval().requires_grad_(False)
    dtype = model.quantisation or str(model.dtype).removeprefix("torch.")
    if dtype != "float32":
        if torch_device.type == "cpu":
            codec.pack(library)
        else:
            codec.head.to(torch.bfloat16)
    return Checkpoint(
        name=str(name_or_path),
        engine=choose_engine(model, library if model.quantisation else None),
        codec=codec,
        tokenizer=tokenizer,
        semantic_id=semantic_id,
        end_id=end_id,
        device=torch_device,
        dtype=dtype,
        sampling=sampling,
        emotion_ids=special_words(tokenizer, "user"),
        style_ids=special_words(tokenizer, "style"),
        topic_ids=special_words(tokenizer, "topic"),
        heard_ids=special_words(tokenizer, "heard"),
        mark_ids=marks,
        character_ids=character_ids(tokenizer) if marks else frozenset(),
        topic_leaning=_load_topics(folder, config, tokenizer),
        mood_leaning=_load_moods(folder, config, tokenizer, codec.config.sample_rate),
        syllables=_load_syllables(folder, tokenizer),
        fingerprint=fingerprint(weight_files(folder)),
    )


def _load_model(
    folder: Path,
    config: DualARConfig,
    tokenizer: TextTokenizer,
    dtype: str,
    device: torch.device,
    library: CDLL | None,
    frame_rate: float,
) -> DualARTransformer:
    semantic_id = tokenizer.get_added_vocab()["<|semantic|>"]
    read = read_model(folder)
    _check_stored(read, dtype, device)
    with naming(folder / "config.json"), planned():
        model = DualARTransformer(config, semantic_id)  # the file's tensors move in
    if dtype == "auto":
        dtype = read.quantised or fastest_dtype(model, device, library, frame_rate)
    weights = read.weights
    if dtype in QUANTISED:
        with naming(read.path), planned():
            with_quantised_layers(model, dtype)
        with naming(read.path):
            if read.quantised:
                weights = {key: _kept(tensor, library) for key, tensor in weights.items()}
            else:
                weights = quantised_weights(read, dtype, config, tokenizer, library)
    assign_weights(model, weights, read.path, FLOATS.get(dtype))
    if dtype in QUANTISED:
        del weights  # so that those which do not stay in place are given up one by one
        prepare_quantised(model, library, in_place=not read.quantised)
    return model.to(device).eval().requires_grad_(False)


def _kept(tensor: Tensor, library: CDLL | None) -> Tensor:
    """A file's tensor, as it may be kept: the file's lie at any address, and keep it open. Of
    quantised weights the C file has a copy anyhow."""
    is_packed = library is not None and tensor.dtype in (torch.int8, torch.uint8)
    return tensor if is_packed else tensor.clone()


def _load_topics(
    folder: Path, config: DualARConfig, tokenizer: TextTokenizer
) -> TopicLeaning | None:
    path = folder / TOPICS_FILE
    if not path.is_file():
        return None
    classifiers = read_topics(path)
    with naming(path):
        return TopicLeaning(classifiers, special_words(tokenizer, "topic"), config.vocab_size)


def _load_moods(
    folder: Path, config: DualARConfig, tokenizer: TextTokenizer, sample_rate: int
) -> MoodLeaning | None:
    path = folder / MOODS_FILE
    if not path.is_file():
        return None
    classifier = read_moods(path)
    if classifier.sample_rate != sample_rate:
        raise ValueError(
            f"{path} is for sounds of {classifier.sample_rate} Hz, the codec's have {sample_rate}: "
            "give what belongs to the checkpoint, or remove it"
        )
    with naming(path):
        return MoodLeaning(classifier, special_words(tokenizer, "user"), config.vocab_size)


def _load_syllables(folder: Path, tokenizer: TextTokenizer) -> SyllableModel | None:
    path = folder / SYLLABLES_FILE
    if not path.is_file():
        return None
    syllables = read_syllables(path)
    if set(syllables.names) != special_words(tokenizer, "heard").keys():
        raise ValueError(f"{path} has other syllables than the tokenizer: give what belongs to it")
    return syllables


def quantised_weights(
    read: ModelWeights,
    dtype: str,
    config: DualARConfig,
    tokenizer: TextTokenizer,
    library: CDLL | None,
) -> dict[str, Tensor]:
    """A language model's weights in few bits; 4 are fitted to how it speaks, where C does that.

    Args:
        read: floats.
        dtype: "int8" or "int4".
        config, tokenizer: the checkpoint's.
        library: from `load_library`.

    Returns:
        As `quantise_weights`.

    Raises:
        ValueError: weights that do not fit the config, or sizes that 4 bits do not fit.
    """
    inputs = None
    if dtype == "int4" and library is not None:
        inputs = calibrate(read.weights, read.path, config, tokenizer, library)
    return quantise_weights(read.weights, dtype, library, inputs)


def _check_stored(read: ModelWeights, dtype: str, device: torch.device) -> None:
    """What is stored in few bits is used as it is, and there is nothing else in few bits."""
    if read.quantised not in (None, *QUANTISED):
        raise ValueError(
            f"{read.path} says dtype {read.quantised}, known are {', '.join(QUANTISED)}: "
            "a newer version may read it"
        )
    if read.quantised and (dtype not in ("auto", read.quantised) or device.type != "cpu"):
        raise ValueError(
            f"{read.path} is quantised to {read.quantised}, which the CPU speaks with as it is: "
            f"use dtype 'auto' and device 'cpu', or the weights it was made from"
        )


def _load_codec(folder: Path, model: DualARConfig) -> FireflyArchitecture:
    """Float32, from weights with weight norm (published) or folded (ours); folded in any case."""
    path, config_path = find_file(folder, CODEC_FILES), folder / "codec_config.json"
    if path.name == PUBLISHED_CODEC and not config_path.is_file():
        config = FireflyConfig()
    else:
        config = read_config(config_path, FireflyConfig)
    if model.num_codebooks != config.num_codebooks or model.codebook_size <= config.codebook_size:
        raise ValueError(
            f"{folder}: the model speaks {model.num_codebooks} codebooks of "
            f"{model.codebook_size}, the codec {config.num_codebooks} of {config.codebook_size}: "
            "they need the same number, and the model at least one code more, for the pad"
        )
    weights = read_weights(path)
    with naming(config_path), planned():
        codec = new_codec(config, weights)
    assign_weights(codec, weights, path, torch.float32)
    return codec.prepare_inference()


def new_codec(config: FireflyConfig, weights: Iterable[str]) -> FireflyArchitecture:
    """A codec with weight norm or folded, as the keys of the weights to come are."""
    return FireflyArchitecture(config, any(".parametrizations." in key for key in weights))
