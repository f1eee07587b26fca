"""The benchmark measures every part of a shape."""

import torch
from omni_small import small_config

from benchmarks.omni import SHAPES, config_of, measure
from models.omni.folder import quiet
from models.omni.sampling import FlowConfig


def test_every_part_is_measured():
    with quiet():
        config = small_config()
    figures = measure(config, torch.float32, FlowConfig(num_steps=2), 40)
    assert figures["weight_bytes"] > 4 * 1_000_000
    assert all(value > 0 for value in figures.values())


def test_the_shapes_are_the_published_ones():
    for shape, widths in (("3b", (2048, 896)), ("7b", (3584, 896))):
        config = config_of(shape)
        text, talker = config.thinker_config.text_config, config.talker_config
        assert (text.hidden_size, talker.hidden_size) == widths
        assert config.thinker_config.vision_config.out_hidden_size == talker.embedding_size
    assert set(SHAPES) == {"3b", "7b"}
