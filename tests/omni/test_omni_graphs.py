"""Decode steps in recorded pieces are the same, and where they are not they are left out."""

import pytest
import torch
import torch.nn.functional as F
from loguru import logger
from omni_small import small_config
from omni_talk import LONG, SHORT, ask, picture, speech
from test_graph import record_in_fx
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as published

from models.omni import checkpoint as loading
from models.omni.graphs import GraphedStep, checked, eager_step
from models.omni.speech_model import OmniModel, load_omni
from models.transformer import graphs

SOUND = 1e-3  # of the loudest sample, in float32


@pytest.fixture
def recorded() -> list:
    """The pieces that `graphed` has made, each with the shapes that it was called with."""
    return []


@pytest.fixture(autouse=True)
def loaded(omni) -> None:
    """What the others share is loaded before anything is changed."""
    omni.warm_up()


@pytest.fixture
def graphed(folder, loaded, monkeypatch, recorded) -> OmniModel:
    """A model as on a GPU; its pieces are recorded without one."""

    def record(function):
        run, shapes = record_in_fx(function), []
        recorded.append(shapes)

        def call(*inputs):
            shapes.append([tuple(tensor.shape) for tensor in inputs])
            return run(*inputs)

        return call

    monkeypatch.setattr(loading, "are_wanted", lambda device: True)
    monkeypatch.setattr(loading, "GraphedStep", lambda model: GraphedStep(model, record))
    return load_omni(folder, "cpu", "float32", None)


def test_replies_of_recorded_steps_are_the_same(omni, graphed, recorded):
    conversations = omni.new_conversation(), graphed.new_conversation()
    for text in (LONG, SHORT):
        expected, found = (ask(each.model, each, text=text, frames=30) for each in conversations)
        assert (found.ids, found.codes) == (expected.ids, expected.codes)
    models = graphed.checkpoint.language_model, graphed.checkpoint.talker.model
    assert len(recorded) == sum(len(model.layers) + 1 for model in models)
    for shapes in recorded:
        assert len(shapes) > 30, "each step is made of the pieces"
        assert all(each == shapes[0] for each in shapes), "what is recorded has fixed shapes"


def test_pictures_and_replies_side_by_side(omni, graphed):
    """Positions that are not those in the cache; pieces that two conversations share."""
    given = {"text": LONG, "image": picture(), "frames": 12}
    assert ask(graphed, **given).codes == ask(omni, **given).codes
    alone = [ask(omni, text=text, speaks=False, frames=12).ids for text in (LONG, SHORT)]
    readers = []
    for text in (LONG, SHORT):
        conversation = graphed.new_conversation()
        conversation.begin_turn(text).finish()
        conversation.read()
        readers.append(conversation.reader)
    for step in range(8):
        for ids, reader in zip(alone, readers):
            token = graphed.checkpoint.lm_head(reader.hidden).argmax()
            assert int(token) == ids[step]
            reader.think(int(token))


class Broken(GraphedStep):
    """Fails as graphs may."""

    def __init__(self, model, fault) -> None:
        super().__init__(model, lambda function: function)
        self.fault = fault

    def __call__(self, *given):
        if self.fault == "error":
            raise RuntimeError("operation not permitted when\nstream is capturing")
        states = super().__call__(*given)
        return states * 1.5 if self.fault == "other" else states * torch.nan


class Flat(GraphedStep):
    """Places what it reads in time alone."""

    def __call__(self, inputs, positions, cache):
        return super().__call__(inputs, positions[:1].expand(3, 1), cache)


class Forgetful(GraphedStep):
    """Sees the cache's last block alone."""

    def _mixed(self, layer, heads, cache):
        query, *new = heads
        keys, values = (kept[:, :, -256:] for kept in cache.update(*new, layer))
        scale = self._attentions[layer].scaling
        mixed = F.scaled_dot_product_attention(query, keys, values, scale=scale, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2)


@pytest.fixture
def warnings():
    """The lines that are logged meanwhile."""
    lines = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize("kind", [Flat, Forgetful])
def test_positions_and_what_was_read_count(omni, warnings, kind):
    for model in (omni.checkpoint.language_model, omni.checkpoint.talker.model):
        assert checked(kind(model, lambda function: function), model) is None
        assert "states differ by 0." in warnings.pop()


def test_a_window_that_slides_leaves_them_out(warnings):
    """Also one that is longer than what the check reads."""
    config = small_config().thinker_config.text_config
    window = {"use_sliding_window": True, "sliding_window": 400, "max_window_layers": 1}
    config = type(config)(**{**config.to_dict(), **window, "layer_types": None})
    torch.manual_seed(0)
    model = published.Qwen2_5OmniThinkerTextModel(config).eval()
    assert checked(GraphedStep(model, lambda function: function), model) is None
    assert "a layer attends within a sliding window" in warnings.pop()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("error", "RuntimeError: operation not permitted when stream is capturing"),
        ("other", "states differ by 0.5"),
        ("nan", "states differ by nan"),
    ],
)
def test_steps_that_fail_or_differ_are_left_out_with_a_warning(omni, warnings, fault, said):
    model = omni.checkpoint.language_model
    assert checked(Broken(model, fault), model) is None
    assert len(warnings) == 1 and said in warnings[0]
    good = GraphedStep(model, record_in_fx)
    assert checked(good, model) is good
    assert len(warnings) == 1


def test_a_model_whose_steps_differ_speaks_without_them(omni, folder, monkeypatch):
    monkeypatch.setattr(loading, "are_wanted", lambda device: True)
    monkeypatch.setattr(loading, "GraphedStep", lambda model: Broken(model, "other"))
    model = load_omni(folder, "cpu", "float32", None)
    assert ask(model, text=LONG, frames=9).codes == ask(omni, text=LONG, frames=9).codes


def test_graphs_are_for_gpus_and_can_be_switched_off(monkeypatch):
    devices = [torch.device(name) for name in ("cpu", "cuda")]
    assert [graphs.are_wanted(device) for device in devices] == [False, True]
    monkeypatch.setenv("WESTLAKE_CUDA_GRAPHS", "0")
    assert [graphs.are_wanted(device) for device in devices] == [False, False]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_do_the_same_bit_for_bit(folder, dtype):
    checkpoint = load_omni(folder, "cuda", dtype, None).checkpoint
    models = checkpoint.language_model, checkpoint.talker.model
    for model, *caches in zip(models, checkpoint.new_caches(), checkpoint.new_caches()):
        step, dtype = checkpoint._graphed[model], model.norm.weight.dtype
        for place in range(4):
            positions = torch.tensor([[place], [3 * place], [7 - place]])
            inputs = torch.randn(1, model.config.hidden_size, device="cuda", dtype=dtype)
            expected = eager_step(model, inputs, positions, caches[0])
            assert torch.equal(step(inputs, positions, caches[1]), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["text", "sound", "picture"])
def test_replies_on_a_gpu_are_those_on_the_cpu(omni, folder, kind, monkeypatch):
    given = {
        "text": {"text": LONG},
        "sound": {"sound": speech(2.5)},
        "picture": {"text": SHORT, "image": picture()},
    }[kind]
    expected = ask(omni, frames=60, **given)
    for switch in ("1", "0"):
        monkeypatch.setenv("WESTLAKE_CUDA_GRAPHS", switch)
        model = load_omni(folder, "cuda", "float32", None)
        found = ask(model, frames=60, **given)
        assert bool(model.checkpoint._graphed) == (switch == "1")
        assert (found.ids, found.codes) == (expected.ids, expected.codes)
        error = abs(found.wave - expected.wave).max()
        assert len(found.wave) and error <= SOUND * abs(expected.wave).max()
