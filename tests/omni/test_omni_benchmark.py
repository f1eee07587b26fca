"""The benchmark measures every part of a shape, and adds up what they take together."""

import pytest
import torch
from omni_small import small_config
from transformers import Qwen2_5OmniForConditionalGeneration

from benchmarks.omni import FIRST_CODES, SHAPES, added_up, config_of, measure
from models.omni.config import quiet
from models.omni.sampling import FlowConfig

TIMES = {
    "prompt_seconds", "tokens_per_second", "talker_prompt_seconds", "codes_per_second",
    "hearing_seconds_per_second", "picture_seconds", "flow_seconds_per_second",
    "vocoder_seconds_per_second",
}  # fmt: skip


def test_every_part_is_measured():
    with quiet():
        config = small_config()
        with torch.device("meta"):
            whole = Qwen2_5OmniForConditionalGeneration(config)
    figures = measure(config, torch.float32, FlowConfig(num_steps=2), 40)
    assert figures.keys() > TIMES and all(value > 0 for value in figures.values())
    assert figures["weight_bytes"] == 4 * sum(x.numel() for x in whole.state_dict().values())


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
    for shape, widths in (("3b", (2048, 896)), ("7b", (3584, 896))):
        config = config_of(shape)
        text, talker = config.thinker_config.text_config, config.talker_config
        assert (text.hidden_size, talker.hidden_size) == widths
        assert config.thinker_config.vision_config.out_hidden_size == talker.embedding_size
    assert set(SHAPES) == {"3b", "7b"}
