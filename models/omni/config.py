"""A published config.json: read, and compared part by part before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from ..files import MAX_LAYERS, check_sizes, naming, read_json
from ..weights import refuse_keys

CONFIG_KEYS = ("thinker_config", "talker_config", "token2wav_config")
# Of what no shape of the weights tells; published are 32,768, 1,500, 100, 24 and 2.
LIMITS = {
    "num_hidden_layers": MAX_LAYERS,
    "encoder_layers": MAX_LAYERS,
    "depth": MAX_LAYERS,
    "enc_res2net_scale": MAX_LAYERS,
    "max_position_embeddings": 1 << 20,
    "max_source_positions": 1 << 14,
    "n_window": 1 << 12,
    "block_size": 1 << 10,
    "repeats": 1 << 6,
}
# Of each part what must be 1 or more, beside what its modules ask for.
COUNTS = {
    "audio": ("num_mel_bins", "n_window"),
    "vision": ("patch_size", "temporal_patch_size", "spatial_merge_size", "num_heads"),
    "text": ("max_position_embeddings", "num_attention_heads", "num_key_value_heads"),
    "talker": ("num_attention_heads", "num_key_value_heads"),
    "dit": ("block_size", "repeats", "mel_dim", "num_embeds"),
}
CODEC_TOKENS = ("start", "end", "pad", "mask")
TEXT_TOKENS = ("start", "end", "pad")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' warnings back, which concern nobody who loads a published folder."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def read_config(folder: Path) -> Any:
    """Read config.json, with the keys of older or newer releases.

    Raises:
        ValueError: it is missing, damaged, or of another model; sizes that can't be, or that do
            not fit together.
    """
    path = folder / "config.json"
    values = read_json(path)
    refuse_keys(path, "lacks keys", [key for key in CONFIG_KEYS if key not in values])
    check_sizes(path, values, LIMITS)
    try:
        with quiet():
            config = transformers.Qwen2_5OmniConfig.from_dict(values)
    except Exception as error:  # a foreign config can make the class raise anything
        raise ValueError(f"{path} does not fit Qwen2.5-Omni ({error}): fetch it again") from error
    with naming(path):
        check_config(config)
    return config


def check_config(config: Any) -> None:
    """Raise a ValueError for sizes that can't be, or that do not fit together."""
    _check_thinker(config.thinker_config)
    if config.enable_audio_output:
        _check_speech(config)


def _check_thinker(config: Any) -> None:
    """Raise a ValueError for sizes that its parts would fail at when they are first used."""
    audio, vision, text = config.audio_config, config.vision_config, config.text_config
    for part, name in ((audio, "audio"), (vision, "vision"), (text, "text")):
        _check_counts(part, name)
    for name in ("position_id_per_seconds", "seconds_per_chunk"):
        _check_count(name, getattr(config, name))
    _check_equal("output_dim", audio.output_dim, "hidden_size", text.hidden_size)
    _check_equal("out_hidden_size", vision.out_hidden_size, "hidden_size", text.hidden_size)
    _check_multiple("hidden_size", vision.hidden_size, "num_heads", vision.num_heads)
    token = vision.patch_size * vision.spatial_merge_size
    _check_multiple("window_size", vision.window_size, "the side of a token", token)
    _check_heads(text, text.hidden_size // text.num_attention_heads)


def _check_speech(config: Any) -> None:
    """The same for the parts that speak."""
    text, talker = config.thinker_config.text_config, config.talker_config
    dit, vocoder = config.token2wav_config.dit_config, config.token2wav_config.bigvgan_config
    _check_counts(talker, "talker")
    _check_counts(dit, "dit")
    for rate in vocoder.upsample_rates:
        _check_count("upsample_rates", rate)
    _check_equal("embedding_size", talker.embedding_size, "hidden_size", text.hidden_size)
    _check_equal("mel_dim of the vocoder", vocoder.mel_dim, "of the flow", dit.mel_dim)
    _check_multiple("block_size", dit.block_size, "repeats", dit.repeats)
    _check_heads(talker, talker.head_dim)
    for word in CODEC_TOKENS:
        _check_id(talker, f"tts_codec_{word}_token_id", talker.vocab_size)
    for word in TEXT_TOKENS:
        _check_id(talker, f"tts_text_{word}_token_id", text.vocab_size)


def _check_counts(part: Any, name: str) -> None:
    for count in COUNTS[name]:
        _check_count(count, getattr(part, count))


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value}, but must be a number of at least 1")


def _check_equal(name: str, value: int, other: str, expected: int) -> None:
    if value != expected:
        raise ValueError(f"{name} is {value}, but must be as {other}, {expected}")


def _check_multiple(name: str, value: int, other: str, divisor: int) -> None:
    if value < 1 or value % divisor:
        raise ValueError(f"{name} is {value}, but must be a multiple of {other}, {divisor}")


def _check_heads(part: Any, head_size: int) -> None:
    heads, shared = part.num_attention_heads, part.num_key_value_heads
    _check_multiple("num_attention_heads", heads, "num_key_value_heads", shared)
    section = (part.rope_parameters or {}).get("mrope_section", [16, 24, 24])
    if 2 * sum(section) != head_size:
        raise ValueError(
            f"mrope_section {list(section)} adds up to {sum(section)}, but must to half of a "
            f"head's {head_size}"
        )


def _check_id(part: Any, name: str, limit: int) -> None:
    value = getattr(part, name)
    if not 0 <= value < limit:
        raise ValueError(f"{name} is {value}, but the model has ids from 0 to {limit - 1}")
