"""Qwen2.5-Omni's speed: python -m benchmarks.omni --shape 3b

Random weights of a published shape, made part by part: a part is made, measured and given back
before the next, so that the largest part has to fit into memory, not the whole. What the parts take
together is added up.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers.initialization import no_init_weights

from models.devices import FLOATS
from models.omni.cache import KVCache
from models.omni.checkpoint import compute_tables
from models.omni.config import quiet
from models.omni.sampling import FlowConfig
from models.omni.token2wav import Token2Wav

from .common import memory_bandwidth, report, seconds_of

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # thinker's text, talker
    "3b": (
        {
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        },
        {
            "embedding_size": 2048, "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "head_dim": 64, "vocab_size": 8448,
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
NUM_STEPS = 8
FIRST_TOKENS, FIRST_CODES = 2, 36  # before the first text and the first sound
CODES_PER_SECOND, HOP_LENGTH = 50, 240
SCALE = 0.02  # of the weights


def config_of(shape: str) -> Any:
    """The config of a published shape."""
    text, talker = SHAPES[shape]
    width = {"out_hidden_size": text["hidden_size"]}
    with quiet():
        return Qwen2_5OmniConfig(
            thinker_config={
                "text_config": text,
                "vision_config": width,
                "audio_config": {"output_dim": text["hidden_size"]},
            },
            talker_config=talker,
        )


def fill(part: nn.Module, dtype: torch.dtype) -> int:
    """Give a part on the meta device random weights; returns their bytes."""
    noise = torch.randn(1 << 20).mul_(SCALE).to(dtype)
    weights = {}
    for name, weight in part.state_dict().items():
        repeats = -(-weight.numel() // len(noise))
        weights[name] = noise.repeat(repeats)[: weight.numel()].reshape(weight.shape)
    part.load_state_dict(weights, assign=True)
    compute_tables(part)
    part.eval().requires_grad_(False)
    return sum(weight.nbytes for weight in weights.values())


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


def measure(config: Any, dtype: torch.dtype, flow: FlowConfig, ref_frames: int) -> dict[str, Any]:
    """The figures of a shape."""
    with quiet(), no_init_weights(), torch.device("meta"):
        model: Any = Qwen2_5OmniForConditionalGeneration(config)
    thinker, talker = model.thinker, model.talker
    figures: dict[str, Any] = {}
    num_bytes = 0

    def part(modules: Sequence[nn.Module], work: Callable[[], None], of=dtype) -> None:
        nonlocal num_bytes
        num_bytes += sum(fill(module, of) for module in modules)
        work()
        for module in modules:
            module.to("meta")
        gc.collect()

    def think() -> None:
        layers = config.thinker_config.text_config.num_hidden_layers
        prompt, step = language_model_seconds(thinker.model, thinker.lm_head, layers)
        figures["prompt_seconds"], figures["tokens_per_second"] = prompt, 1 / step

    def talk() -> None:
        layers = config.talker_config.num_hidden_layers
        prompt, step = language_model_seconds(talker.model, talker.codec_head, layers)
        figures["talker_prompt_seconds"], figures["codes_per_second"] = prompt, 1 / step

    def hear() -> None:
        mel = torch.randn(config.thinker_config.audio_config.num_mel_bins, 200, dtype=dtype)
        with torch.no_grad():
            seconds = seconds_of(thinker.audio_tower, mel, torch.tensor([200]))
        figures["hearing_seconds_per_second"] = seconds / 2

    def look() -> None:
        pixels = torch.randn(32 * 32, 3 * 2 * 14 * 14, dtype=dtype)
        with torch.no_grad():
            seconds = seconds_of(thinker.visual, pixels, torch.tensor([[1, 32, 32]]))
        figures["picture_seconds"] = seconds

    def sound() -> None:
        flow_time, vocoder = flow_seconds(model.token2wav, flow, ref_frames)
        figures["flow_seconds_per_second"] = flow_time
        figures["vocoder_seconds_per_second"] = vocoder

    part([thinker.model, thinker.lm_head], think)
    part([talker], talk)
    part([thinker.audio_tower], hear)
    part([thinker.visual], look)
    part([model.token2wav], sound, torch.float32)
    return figures | {"weight_bytes": num_bytes} | added_up(figures)


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
    parser.add_argument("--dtype", choices=FLOATS, default="bfloat16")
    parser.add_argument("--euler-evaluations", type=int, help="else the published 36")
    options = parser.parse_args(arguments)
    flow = FlowConfig()
    if options.euler_evaluations:
        flow = FlowConfig(solver="euler", num_steps=options.euler_evaluations + 1)
    figures = measure(config_of(options.shape), FLOATS[options.dtype], flow, 400)
    bandwidth = memory_bandwidth()
    settings = {"shape": options.shape, "dtype": options.dtype, "solver": flow.solver}
    report("omni", settings | figures | {"bandwidth_bytes_per_second": bandwidth})


if __name__ == "__main__":
    main()
