"""Qwen2.5-Omni's speed: python -m benchmarks.omni --shape 3b

Random weights of a published shape, made part by part: a part is made, measured and given back
before the next, so that the largest part has to fit into memory, not the whole: of 7b the thinker,
15 GB in bfloat16 and 5.3 GB in int4. What the parts take together is added up.
"""

import argparse
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers.initialization import no_init_weights

from models.devices import DTYPES, FLOATS, QUANTISED, check_dtype, find_device
from models.omni.cache import KVCache
from models.omni.checkpoint import compute_tables
from models.omni.config import quiet
from models.omni.graphs import GraphedStep, checked, eager_step
from models.omni.sampling import Draw, FlowConfig, OmniSampling
from models.omni.token2wav import Token2Wav
from models.transformer.graphs import are_wanted
from models.transformer.native import load_library
from models.transformer.quantisation import linear_layer, linear_layers
from models.transformer.quantised import GROUP_SIZE, Int4Linear, Int8Linear

from .common import bytes_of, memory_bandwidth, report, seconds_of, warm_seconds_of

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
CPU = torch.device("cpu")
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


def filled(
    part: nn.Module, dtype: torch.dtype, few_bits: str | None, device: torch.device
) -> nn.Module:
    """A part on the meta device with random weights.

    Its linear layers of few bits are made as such, so that they never lie in memory as floats.

    Args:
        dtype: of all other weights.
        few_bits: of the linear layers, of `QUANTISED`; None for none.
        device: of the weights.
    """
    if few_bits and isinstance(part, nn.Linear):
        return few_bits_like(part, 8)
    for path in linear_layers(part) if few_bits else ():
        bits = 4 if few_bits == "int4" and not path.endswith("head") else 8
        parent, _, name = path.rpartition(".")
        setattr(part.get_submodule(parent), name, few_bits_like(linear_layer(part, path), bits))
    noise = torch.randn(NOISE).mul_(SCALE).to(device, dtype)
    for owner in part.modules():
        for name, weight in list(owner.named_parameters(recurse=False)):
            setattr(owner, name, nn.Parameter(repeated(noise, weight.shape), requires_grad=False))
    compute_tables(part)
    return part.to(device).eval().requires_grad_(False)


def repeated(noise: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of that shape whose values come again and again."""
    size = math.prod(shape)
    return noise.repeat(-(-size // len(noise)))[:size].reshape(shape)


def few_bits_like(layer: nn.Linear, bits: int) -> Int8Linear:
    """A quantised layer of random weights, as large as one of floats."""
    made = (Int8Linear if bits == 8 else Int4Linear)(1, 1, False)
    made.num_outputs = layer.out_features
    num_bytes = layer.in_features * bits // 8
    dtype = torch.int8 if bits == 8 else torch.uint8
    made.weight = torch.empty(layer.out_features, num_bytes, dtype=dtype)
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
def language_model_figures(
    model: Any, head: nn.Module, draw: Draw, num_layers: int
) -> tuple[float, dict[str, float]]:
    """Seconds of a prompt of `PROMPT` positions; and steps a second behind it, each with a draw.

    On a GPU steps are CUDA graphs, where these can be recorded, and are also measured without.
    """
    cache, eager = KVCache(num_layers), partial(eager_step, model)
    weight = next(model.parameters())

    def read(num: int, step: Callable = eager) -> None:
        inputs = torch.randn(num, model.config.hidden_size, device=weight.device)
        places = (torch.arange(num) + cache.length).expand(3, -1)
        draw(head(step(inputs.to(weight.dtype), places, cache)[-1:]))

    def per_second(step: Callable) -> float:
        read(1, step)

        def steps() -> None:
            for _ in range(NUM_STEPS):
                read(1, step)

        return NUM_STEPS / seconds_of(steps)

    def prompt() -> None:
        cache.truncate(0)
        read(PROMPT)

    prompt_seconds = warm_seconds_of(prompt)
    if not are_wanted(weight.device):
        return prompt_seconds, {"per_second": per_second(eager)}
    without = per_second(eager)
    recorded = checked(GraphedStep(model), model) or eager
    figures = {"per_second": per_second(recorded), "per_second_without_graphs": without}
    return prompt_seconds, figures


@torch.no_grad()
def flow_seconds(token2wav: Any, flow: FlowConfig, ref_frames: int) -> tuple[float, float]:
    """Seconds of work a second of sound, in pieces of four blocks: the flow, and the vocoder."""
    maker = Token2Wav(token2wav, flow, first_blocks=4)
    dit = token2wav.code2wav_dit_model.config
    voice = torch.randn(1, dit.enc_emb_dim), torch.randn(1, ref_frames, 80)
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
    if maker.device.type == "cuda":
        maker.push(maker.new_state(*voice, 0), codes)
        seconds["vocoder"] = 0.0
    state = maker.new_state(*voice, 0)
    total = seconds_of(lambda: maker.push(state, codes))
    sound = 4 * maker.block_codes / CODES_PER_SECOND
    heard = state.num_sounding / (2 * CODES_PER_SECOND)
    return (total - seconds["vocoder"]) / sound, seconds["vocoder"] / max(heard, 0.1)


class Parts:
    """The parts of a shape: each is made, measured and given back before the next.

    Args:
        config: of the shape.
        dtype: of the language models, of `DTYPES`; the towers are bfloat16 where it is of few bits.
        device: that they are made on.
    """

    def __init__(self, config: Any, dtype: str, device: torch.device = CPU) -> None:
        self.config, self.dtype, self.device = config, dtype, device
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
        modules = [
            filled(self.model.get_submodule(path), dtype, few_bits, self.device) for path in paths
        ]
        self.num_bytes += bytes_of(*modules)
        yield modules
        for path in paths:
            parent, _, name = path.rpartition(".")
            setattr(self.model.get_submodule(parent), name, None)
        modules.clear()
        gc.collect()


@torch.no_grad()
def measured(parts: Parts, flow: FlowConfig, ref_frames: int) -> Iterator[dict[str, float]]:
    """The figures of a shape's parts, those of each when it was measured."""
    thinker, talker = parts.config.thinker_config, parts.config.talker_config
    settings = OmniSampling()
    like: dict[str, Any] = {"dtype": parts.float_dtype, "device": parts.device}
    with parts.made("thinker.model", "thinker.lm_head", is_language_model=True) as made:
        layers = thinker.text_config.num_hidden_layers
        prompt, steps = language_model_figures(made[0], made[1], Draw(temperature=0), layers)
    yield {"prompt_seconds": prompt} | {f"tokens_{key}": value for key, value in steps.items()}
    with parts.made("talker", is_language_model=True) as made:
        layers = talker.num_hidden_layers
        draw = Draw(
            temperature=settings.temperature,
            top_k=min(settings.top_k, talker.vocab_size),
            top_p=settings.top_p,
            penalty=settings.repetition_penalty,
        )
        prompt, steps = language_model_figures(made[0].model, made[0].codec_head, draw, layers)
    yield {"talker_prompt_seconds": prompt} | {f"codes_{key}": steps[key] for key in steps}
    with parts.made("token2wav") as made:
        flow_time, vocoder = flow_seconds(made[0], flow, ref_frames)
    yield {"flow_seconds_per_second": flow_time, "vocoder_seconds_per_second": vocoder}
    with parts.made("thinker.audio_tower") as made:
        mel = torch.randn(thinker.audio_config.num_mel_bins, 200, **like)
        length = torch.tensor([200], device=parts.device)
        hearing = warm_seconds_of(made[0], mel, length) / 2
    yield {"hearing_seconds_per_second": hearing}
    with parts.made("thinker.visual") as made:
        pixels = torch.randn(32 * 32, 3 * 2 * 14 * 14, **like)
        grid = torch.tensor([[1, 32, 32]], device=parts.device)
        picture = warm_seconds_of(made[0], pixels, grid)
    yield {"picture_seconds": picture}


def measure(
    config: Any,
    dtype: str,
    flow: FlowConfig,
    ref_frames: int,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """The figures of a shape."""
    parts = Parts(config, dtype, device)
    figures: dict[str, Any] = {"parameters": parts.num_parameters}
    for more in measured(parts, flow, ref_frames):
        figures |= more
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
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--euler-evaluations", type=int, help="else the published 36")
    options = parser.parse_args(arguments)
    flow = FlowConfig()
    if options.euler_evaluations:
        flow = FlowConfig(solver="euler", num_steps=options.euler_evaluations + 1)
    device = find_device(options.device)
    check_dtype(options.dtype, device)
    figures = measure(config_of(options.shape), options.dtype, flow, REFERENCE, device)
    bandwidth = memory_bandwidth(device=device)
    settings = {"shape": options.shape, "dtype": options.dtype, "device": device.type}
    settings |= {"solver": flow.solver}
    report("omni", settings | figures | {"bandwidth_bytes_per_second": bandwidth})


if __name__ == "__main__":
    main()
