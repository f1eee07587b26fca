"""Qwen2.5-Omni's speed: python -m benchmarks.omni --shape 3b

Random weights of a published shape, made part by part: a part is made, measured and given back
before the next, so that the largest part has to fit into memory, not the whole: of 7b the thinker,
15 GB in bfloat16 and 5.3 GB in int4. What the parts take together is added up.
"""

import argparse
import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers.initialization import no_init_weights

from models.devices import DTYPES, FLOATS, QUANTISED
from models.omni.cache import KVCache
from models.omni.checkpoint import compute_tables
from models.omni.config import quiet
from models.omni.sampling import FlowConfig
from models.omni.token2wav import Token2Wav
from models.transformer.native import load_library
from models.transformer.quantisation import empty, linear_layer, linear_layers
from models.transformer.quantised import GROUP_SIZE, Int4Linear, Int8Linear

from .common import bytes_of, memory_bandwidth, report, seconds_of

# Of heads of 64; how its pairs are shared out among time, height and width costs nothing.
MROPE_64 = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # thinker's text, talker
    "3b": (
        {
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        },
        {
            "embedding_size": 2048, "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "head_dim": 64, "vocab_size": 8448, "rope_parameters": MROPE_64,
        },
    ),
    "7b": (
        {
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        },
        {
            "embedding_size": 3584, "hidden_size": 896, "intermediate_size": 18_944,
            "num_hidden_layers": 24, "num_attention_heads": 12, "num_key_value_heads": 4,
            "head_dim": 128, "vocab_size": 8448,
        },
    ),
}  # fmt: skip
PROMPT = 200  # positions
REFERENCE = 400  # mel frames of a voice's reference
NUM_STEPS = 8
FIRST_TOKENS, FIRST_CODES = 2, 36  # before the first text and the first sound
CODES_PER_SECOND, HOP_LENGTH = 50, 240
SCALE = 0.02  # of the weights
STEPS_8, STEPS_4 = 73.9, 4.61  # standard deviations of random bytes and of random halves of one
NOISE = 1 << 20  # random numbers, which come again and again


def config_of(shape: str) -> Any:
    """The config of a published shape."""
    text, talker = SHAPES[shape]
    vision = {"hidden_size": 1280, "out_hidden_size": text["hidden_size"]}
    with quiet():
        return Qwen2_5OmniConfig(
            thinker_config={
                "text_config": text,
                "vision_config": vision,
                "audio_config": {"output_dim": text["hidden_size"]},
            },
            talker_config=talker,
        )


def filled(part: nn.Module, dtype: torch.dtype, few_bits: str | None) -> nn.Module:
    """A part on the meta device with random weights.

    Its linear layers of few bits are made as such, so that they never lie in memory as floats.

    Args:
        dtype: of all other weights.
        few_bits: of the linear layers, of `QUANTISED`; None for none.
    """
    if few_bits and isinstance(part, nn.Linear):
        return few_bits_like(part, 8)
    for path in linear_layers(part) if few_bits else ():
        bits = 4 if few_bits == "int4" and not path.endswith("head") else 8
        parent, _, name = path.rpartition(".")
        setattr(part.get_submodule(parent), name, few_bits_like(linear_layer(part, path), bits))
    noise = torch.randn(NOISE).mul_(SCALE).to(dtype)
    for owner in part.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            setattr(owner, name, nn.Parameter(repeated(noise, weight.shape), requires_grad=False))
    compute_tables(part)
    return part.eval().requires_grad_(False)


def repeated(noise: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of that shape whose values come again and again."""
    size = math.prod(shape)
    return noise.repeat(-(-size // len(noise)))[:size].reshape(shape)


def few_bits_like(layer: nn.Linear, bits: int) -> Int8Linear:
    """A quantised layer of random weights, as large as one of floats."""
    made = (Int8Linear if bits == 8 else Int4Linear)(1, 1, False)
    made.num_outputs = layer.out_features
    num_bytes = layer.in_features * bits // 8
    made.weight = empty(layer.out_features, num_bytes, torch.int8 if bits == 8 else torch.uint8)
    noise = torch.randint(0, 256, (NOISE,), dtype=torch.uint8).view(made.weight.dtype)
    for piece in made.weight.view(-1).split(NOISE):
        piece.copy_(noise[: len(piece)])
    if bits == 8:
        made.scale = torch.full((layer.out_features,), SCALE / STEPS_8)
    else:
        made.scale = torch.full((layer.out_features, layer.in_features // GROUP_SIZE, 2), SCALE)
        made.scale /= torch.tensor([STEPS_4, 2 * STEPS_4])  # the 16 steps lie about zero
    made.bias = None if layer.bias is None else torch.zeros(layer.out_features)
    made.prepare(load_library())
    return made


@torch.no_grad()
def language_model_seconds(model: Any, head: nn.Module, num_layers: int) -> tuple[float, float]:
    """Seconds of a prompt of `PROMPT` positions, and of a step behind it."""
    cache, width = KVCache(num_layers), model.config.hidden_size
    dtype = next(model.parameters()).dtype

    def step(num: int) -> None:
        places = (torch.arange(num) + cache.length).expand(3, 1, -1)
        out = model(
            inputs_embeds=torch.randn(1, num, width, dtype=dtype),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        head(out.last_hidden_state[:, -1])

    prompt = seconds_of(step, PROMPT)
    step(1)

    def steps() -> None:
        for _ in range(NUM_STEPS):
            step(1)

    return prompt, seconds_of(steps) / NUM_STEPS


@torch.no_grad()
def flow_seconds(token2wav: Any, flow: FlowConfig, ref_frames: int) -> tuple[float, float]:
    """Seconds of work a second of sound, in pieces of four blocks: the flow, and the vocoder."""
    maker = Token2Wav(token2wav, flow, first_blocks=4)
    dit = token2wav.code2wav_dit_model.config
    state = maker.new_state(torch.randn(1, dit.enc_emb_dim), torch.randn(1, ref_frames, 80), 0)
    seconds: dict[str, float] = {"vocoder": 0.0}
    vocoder = maker.vocoder

    class Timed(nn.Module):
        config = vocoder.config

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            made = []
            seconds["vocoder"] += seconds_of(lambda: made.append(vocoder(mel)))
            return made[0]

    maker.vocoder = Timed()
    codes = [1] * (5 * maker.block_codes)
    total = seconds_of(lambda: maker.push(state, codes))
    sound = 4 * maker.block_codes / CODES_PER_SECOND
    heard = state.num_sounding / (2 * CODES_PER_SECOND)
    return (total - seconds["vocoder"]) / sound, seconds["vocoder"] / max(heard, 0.1)


class Parts:
    """The parts of a shape: each is made, measured and given back before the next.

    Args:
        config: of the shape.
        dtype: of the language models, of `DTYPES`; the towers are bfloat16 where it is of few bits.
    """

    def __init__(self, config: Any, dtype: str) -> None:
        self.config, self.dtype = config, dtype
        self.num_bytes = 0
        with quiet(), no_init_weights(), torch.device("meta"):
            self.model: Any = Qwen2_5OmniForConditionalGeneration(config)
        self.num_parameters = sum(x.numel() for x in self.model.parameters())

    @property
    def float_dtype(self) -> torch.dtype:
        return FLOATS.get(self.dtype, torch.bfloat16)

    @contextmanager
    def made(self, *paths: str, is_language_model: bool = False) -> Iterator[list[Any]]:
        """The modules of these names, for a while."""
        few_bits = self.dtype if is_language_model and self.dtype in QUANTISED else None
        dtype = torch.float32 if paths == ("token2wav",) else self.float_dtype
        modules = [filled(self.model.get_submodule(path), dtype, few_bits) for path in paths]
        self.num_bytes += bytes_of(*modules)
        yield modules
        for path in paths:
            parent, _, name = path.rpartition(".")
            setattr(self.model.get_submodule(parent), name, None)
        modules.clear()
        gc.collect()


@torch.no_grad()
def measure(config: Any, dtype: str, flow: FlowConfig, ref_frames: int) -> dict[str, Any]:
    """The figures of a shape."""
    parts = Parts(config, dtype)
    figures: dict[str, Any] = {"parameters": parts.num_parameters}
    thinker, like = config.thinker_config, parts.float_dtype
    with parts.made("thinker.model", "thinker.lm_head", is_language_model=True) as made:
        layers = thinker.text_config.num_hidden_layers
        prompt, step = language_model_seconds(made[0], made[1], layers)
    figures |= {"prompt_seconds": prompt, "tokens_per_second": 1 / step}
    with parts.made("talker", is_language_model=True) as made:
        layers = config.talker_config.num_hidden_layers
        prompt, step = language_model_seconds(made[0].model, made[0].codec_head, layers)
    figures |= {"talker_prompt_seconds": prompt, "codes_per_second": 1 / step}
    with parts.made("thinker.audio_tower") as made:
        mel = torch.randn(thinker.audio_config.num_mel_bins, 200, dtype=like)
        figures["hearing_seconds_per_second"] = seconds_of(made[0], mel, torch.tensor([200])) / 2
    with parts.made("thinker.visual") as made:
        pixels = torch.randn(32 * 32, 3 * 2 * 14 * 14, dtype=like)
        figures["picture_seconds"] = seconds_of(made[0], pixels, torch.tensor([[1, 32, 32]]))
    with parts.made("token2wav") as made:
        flow_time, vocoder = flow_seconds(made[0], flow, ref_frames)
    figures |= {"flow_seconds_per_second": flow_time, "vocoder_seconds_per_second": vocoder}
    return figures | {"weight_bytes": parts.num_bytes} | added_up(figures)


def added_up(figures: dict[str, Any]) -> dict[str, float]:
    """What the parts take together, for a text prompt and the first pieces of sound."""
    token, code = 1 / figures["tokens_per_second"], 1 / figures["codes_per_second"]
    sound = figures["flow_seconds_per_second"] + figures["vocoder_seconds_per_second"]
    prompts = figures["prompt_seconds"] + figures["talker_prompt_seconds"]
    first_sound = prompts + FIRST_CODES * (token + code) + sound * FIRST_CODES / CODES_PER_SECOND
    return {
        "first_text_seconds": prompts + FIRST_TOKENS * token,
        "first_sound_seconds": first_sound,
        "real_time_factor_after_the_text": CODES_PER_SECOND * code + sound,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--euler-evaluations", type=int, help="else the published 36")
    options = parser.parse_args(arguments)
    flow = FlowConfig()
    if options.euler_evaluations:
        flow = FlowConfig(solver="euler", num_steps=options.euler_evaluations + 1)
    figures = measure(config_of(options.shape), options.dtype, flow, REFERENCE)
    bandwidth = memory_bandwidth()
    settings = {"shape": options.shape, "dtype": options.dtype, "solver": flow.solver}
    report("omni", settings | figures | {"bandwidth_bytes_per_second": bandwidth})


if __name__ == "__main__":
    main()
