"""The benchmark measures every part of a shape, and adds up what they take together."""

import pytest
import torch
from omni_small import small_config
from torch import nn
from transformers import Qwen2_5OmniForConditionalGeneration

from benchmarks.omni import (
    FIRST_CODES,
    SHAPES,
    Parts,
    added_up,
    config_of,
    few_bits_like,
    measure,
)
from models.omni.config import check_config, quiet
from models.omni.sampling import FlowConfig

pytestmark = pytest.mark.usefixtures("few_to_collect")
TIMES = {
    "prompt_seconds", "tokens_per_second", "talker_prompt_seconds", "codes_per_second",
    "hearing_seconds_per_second", "picture_seconds", "flow_seconds_per_second",
    "vocoder_seconds_per_second",
}  # fmt: skip


TABLES = 250_000  # bytes of positions and filters, which are no parameters


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_every_part_is_measured(dtype):
    with quiet():
        config = small_config(inner=128, width=64)  # sizes that four bits fit
        with torch.device("meta"):
            whole = Qwen2_5OmniForConditionalGeneration(config)
    figures = measure(config, dtype, FlowConfig(num_steps=2), 40)
    assert figures.keys() > TIMES and all(value > 0 for value in figures.values())
    assert figures["parameters"] == sum(x.numel() for x in whole.parameters())
    speaking = sum(x.numel() for x in whole.token2wav.parameters())  # float32 always
    others = figures["parameters"] - speaking
    low, high = (4, 4) if dtype == "float32" else (1, 2)  # bytes
    assert 4 * speaking + low * others <= figures["weight_bytes"]
    assert figures["weight_bytes"] < 4 * speaking + high * others + TABLES


@pytest.mark.parametrize("bits", [8, 4])
def test_random_layers_of_few_bits_are_like_random_layers(bits):
    layer = few_bits_like(nn.Linear(256, 300, device="meta"), bits)
    y = layer(torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).bfloat16())
    assert y.shape == (8, 300)
    assert 0.8 < float(y.float().std()) / (0.02 * 16) < 1.25


def test_what_the_parts_take_is_added_up():
    figures = {
        "prompt_seconds": 2.0, "talker_prompt_seconds": 1.0, "tokens_per_second": 4.0,
        "codes_per_second": 100.0, "flow_seconds_per_second": 0.3,
        "vocoder_seconds_per_second": 0.2,
    }  # fmt: skip
    total = added_up(figures)
    assert total["first_text_seconds"] == pytest.approx(3 + 2 / 4)
    sound = 0.5 * FIRST_CODES / 50
    assert total["first_sound_seconds"] == pytest.approx(3 + FIRST_CODES * (1 / 4 + 0.01) + sound)
    assert total["real_time_factor_after_the_text"] == pytest.approx(50 / 100 + 0.5)


def test_the_shapes_are_the_published_ones():
    for shape, widths, parameters in (
        ("3b", (2048, 896), (3397, 638, 669, 385, 449)),
        ("7b", (3584, 896), (7616, 640, 677, 1351, 449)),
    ):
        config = config_of(shape)
        check_config(config)
        model = Parts(config, "int4").model
        thinker = model.thinker
        language_model = nn.ModuleList([thinker.model, thinker.lm_head])
        parts = (language_model, thinker.audio_tower, thinker.visual, model.talker, model.token2wav)
        found = [sum(x.numel() for x in part.parameters()) / 1e6 for part in parts]
        assert found == pytest.approx(parameters, rel=0.01)
        text, talker = config.thinker_config.text_config, config.talker_config
        assert (text.hidden_size, talker.hidden_size) == widths
        assert config.thinker_config.vision_config.out_hidden_size == talker.embedding_size
    assert set(SHAPES) == {"3b", "7b"}
