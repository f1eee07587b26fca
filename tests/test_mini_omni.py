"""The language model equals the published computation, alone, together and in few bits."""

from functools import partial
from pathlib import Path

import pytest
import torch
from libraries import library_for
from small_mini_omni import (
    AUDIO_END,
    AUDIO_PAD,
    TEXT_END,
    TEXT_PAD,
    WHISPER,
    language_weights,
    plain_reply,
)
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from models.errors import UserError
from models.mini_omni.checkpoint import new_model
from models.mini_omni.engine import Engine
from models.mini_omni.generation import Reply, next_columns, prompt_of_speech, prompt_of_text
from models.mini_omni.model import MiniOmniTransformer
from models.mini_omni.published import ADAPTER, rename_language_model
from models.mini_omni.speech_model import MiniOmniModel
from models.stepping import Stepper
from models.transformer import KVCache

NUM_COLUMNS = 16
LARGEST_ERRORS = {"int8": 0.05, "int4": 0.5}  # of the hidden states, relative
TEXT = [72, 105, 33]


@pytest.fixture(scope="module")
def engine(mini_omni: MiniOmniModel) -> Engine:
    return mini_omni.checkpoint.engine


@pytest.fixture(scope="module")
def wave() -> Tensor:
    return 0.1 * torch.randn(9_700, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def features(mini_omni: MiniOmniModel, wave: Tensor) -> Tensor:
    with torch.inference_mode():
        return mini_omni.checkpoint.ear(wave)


@pytest.fixture(scope="module")
def heard(mini_omni: MiniOmniModel, mini_omni_folder: Path, wave: Tensor) -> Tensor:
    """What transformers' own model gives for the wave, as far as it counts: 9,700 / 320 + 1."""
    whisper = WhisperModel(WhisperConfig(**WHISPER)).eval()
    path = mini_omni_folder / "whisper" / "pytorch_model.bin"
    whisper.load_state_dict(torch.load(path, weights_only=True), strict=True)
    mel = mini_omni.checkpoint.ear.extractor(wave.numpy(), sampling_rate=16_000)
    with torch.no_grad():
        states = whisper.encoder(torch.as_tensor(mel["input_features"])).last_hidden_state
    return states[0, :31]


def published(reply: Reply) -> list[list[int]]:
    return [[*column[1:].tolist(), int(column[0])] for column in reply.columns]


def loaded(config, weights, dtype, library) -> MiniOmniTransformer:
    others = {key: x for key, x in weights.items() if not key.startswith(ADAPTER)}
    renamed = rename_language_model(others, config, Path("x"))
    return new_model(config, renamed, Path("x"), dtype, library).eval().requires_grad_(False)


def answered(engine: Engine, prompt, num_columns: int = NUM_COLUMNS) -> Reply:
    reply = Reply(engine.model, prompt, num_columns)
    while not reply.ended:
        next_columns(engine, [reply])
    return reply


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("kind", ["speech", "text"])
def test_greedy_columns_equal_a_plain_loop_without_cache(
    mini_omni, engine, features, heard, is_tied, kind
):
    weights = language_weights(is_tied)
    if not is_tied:
        engine = Engine(loaded(engine.model.config, weights, "float32", None))
    if kind == "speech":
        prompt, expected = prompt_of_speech(engine.model, features), (heard, [])
    else:
        prompt, expected = prompt_of_text(engine.model, TEXT), (None, TEXT)
    with torch.no_grad():
        columns = plain_reply(weights, *expected, NUM_COLUMNS)
    assert len({tuple(column) for column in columns}) > NUM_COLUMNS // 2, "it says something"
    assert published(answered(engine, prompt)) == columns


def test_replies_are_stepped_together_as_alone(engine, features):
    prompts = [
        prompt_of_speech(engine.model, features),
        prompt_of_text(engine.model, TEXT),
        prompt_of_text(engine.model, TEXT[:1]),
    ]
    replies = [Reply(engine.model, prompt, 5 + row) for row, prompt in enumerate(prompts)]
    for step in range(20):
        going = [reply for row, reply in enumerate(replies) if row <= step and not reply.ended]
        if going:
            next_columns(engine, going)
    for row, (reply, prompt) in enumerate(zip(replies, prompts)):
        assert published(reply) == published(answered(engine, prompt, 5 + row))


class Breaking(Engine):
    """Fails behind the layers, in every step of several replies from a column on."""

    def __init__(self, engine: Engine, column: int) -> None:
        super().__init__(engine.model)
        self.steps_left = column

    def codes(self, hidden):
        self.steps_left -= 1
        if len(hidden) > 1 and self.steps_left < 0:
            raise RuntimeError("broken")
        return super().codes(hidden)


@pytest.mark.parametrize("column", [0, 3])
def test_after_a_fault_in_a_shared_step_each_is_stepped_alone(engine, features, column):
    prompts = [prompt_of_speech(engine.model, features), prompt_of_text(engine.model, TEXT)]
    replies = [Reply(engine.model, prompt, 6) for prompt in prompts]
    stepper = Stepper(partial(next_columns, Breaking(engine, column)), Reply.snapshot)
    for _ in range(6):
        stepper.next_frames(replies)
    for reply, prompt in zip(replies, prompts):
        assert published(reply) == published(answered(engine, prompt, 6))


class Scripted(Engine):
    """Says what it is told, and notes what it reads."""

    def __init__(self, engine: Engine, columns: list[list[int]]) -> None:
        super().__init__(engine.model)
        self.columns, self.inputs, self.num_texts = columns, [], 0

    def read(self, x, caches):
        self.inputs.append(x)
        return super().read(x, caches)

    def codes(self, hidden):
        self.column = self.columns.pop(0)
        return torch.tensor(self.column[:7])[None]

    def text(self, hidden):
        self.num_texts += 1
        return torch.tensor(self.column[7])[None]


def test_ends_of_text_and_of_speech(engine):
    codes = [[row] * 7 for row in range(4)]
    script = [
        [*codes[0], 72],
        [*codes[1], TEXT_END],
        [AUDIO_END] + codes[2][1:] + [99],
        [AUDIO_END] * 6 + [5, 99],
        [AUDIO_END] * 7 + [99],
    ]
    scripted = Scripted(engine, list(script))
    reply = Reply(engine.model, prompt_of_text(engine.model, TEXT), NUM_COLUMNS)
    made = [next_columns(scripted, [reply])[0] for _ in script]
    assert reply.ended and made[-1] is None and len(reply.columns) == len(script) - 1
    texts = [int(column[0]) for column in made[:-1]]
    assert texts == [72, TEXT_END, TEXT_PAD, TEXT_PAD], "after the text's end come pads"
    assert scripted.num_texts == 2, "a text that has ended is not asked for"
    silent = torch.tensor([[72] + [AUDIO_PAD] * 7]).T[None]
    speech = torch.tensor([[72, *codes[0]]]).T[None]
    read = torch.cat([engine.model.embed(speech), engine.model.embed(silent)])
    assert torch.equal(scripted.inputs[2], read), "both read the text, one its codes"


def test_a_frame_is_complete_when_its_last_code_is_there(engine):
    reply = Reply(engine.model, prompt_of_text(engine.model, TEXT), 12)
    for column in range(12):
        assert reply.num_frames == max(0, column - 7)
        reply.add(torch.tensor(65), torch.arange(7) + 8 * column % 50)
    assert reply.ended and reply.num_frames == 5
    assert torch.equal(reply.codes(2), torch.tensor([(8 * (3 + i) % 50) + i for i in range(7)]))


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
@pytest.mark.parametrize("isa", ["native", "torch"])
def test_few_bits_compute_nearly_the_same(engine, features, dtype, isa):
    library = None if isa == "torch" else library_for(isa)
    other = Engine(loaded(engine.model.config, language_weights(), dtype, library), library)
    assert other.name == ("eager" if library is None else "native")
    x = prompt_of_speech(engine.model, features).x
    results = []
    with torch.inference_mode():
        columns = torch.randint(0, 64, (2, 8, 3), generator=torch.Generator().manual_seed(1))
        for each in (engine, other):
            cache = each.model.new_cache(len(x))
            each.read(x[None].to(each.model.dtype), [cache])
            cache = cache.repeated(2, 100)
            steps = [each.read(each.model.embed(c), [cache]) for c in columns.split(1, 2)]
            results.append(torch.cat(steps, 1).float())
            assert cache.length == len(x) + 3
        expected, found = results
        assert 0 < (found - expected).norm() / expected.norm() < LARGEST_ERRORS[dtype]
        hidden = steps[-1][:, 0]
        logits = other.model.logits(hidden).float()
        size = engine.model.config.text_vocab_size
        chosen = logits[:, :size].gather(1, other.text(hidden)[:, None])[:, 0]
        assert (logits[:, :size].amax(1) - chosen < 0.05 * logits.abs().amax()).all()
        by_row = logits[:, size:].unflatten(1, (7, -1))
        chosen = by_row.gather(2, other.codes(hidden)[..., None])[..., 0]
        assert (by_row.amax(2) - chosen < 0.05 * logits.abs().amax()).all()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_logits_that_are_not_finite_are_no_token(engine, features, dtype):
    library = library_for("native") if dtype == "int8" else None
    weights = language_weights()
    broken = Engine(loaded(engine.model.config, weights, dtype, library), library)
    reply = Reply(broken.model, prompt_of_speech(broken.model, features), 6)
    next_columns(broken, [reply])
    with torch.inference_mode():
        for layer in reply.cache._layers:
            layer[:, :, 3].fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the model's logits are not finite"):
        next_columns(broken, [reply])


def test_a_prompt_without_room_is_refused(engine):
    prompt = prompt_of_text(engine.model, [65] * 300)
    room = engine.model.config.block_size - len(prompt.x)
    assert Reply(engine.model, prompt, room).max_columns == room
    with pytest.raises(ValueError, match=f"a prompt of 303 and a reply of {room + 1} columns"):
        Reply(engine.model, prompt, room + 1)


def test_a_cache_is_repeated(engine):
    config = engine.model.config.stack
    cache = KVCache(config, 10)
    for layer in range(config.n_layer):
        cache.append(layer, torch.randn(1, 2 * config.n_local_heads, 4, config.head_dim))
    cache.advance(4)
    other = cache.repeated(3, 7)
    assert (other.length, other.max_len, other.num_rows) == (4, 7, 3)
    for own, entries in zip(cache._layers, other._layers):
        assert torch.equal(entries[:, :, :4], own[:, :, :4].expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="a cache of 3 positions cannot hold 4"):
        cache.repeated(2, 3)


def test_long_text_is_refused_before_it_is_tokenized(mini_omni, monkeypatch):
    def encode(*given, **options):
        pytest.fail("was tokenized")

    monkeypatch.setattr(type(mini_omni.checkpoint.tokenizer), "encode", encode)
    with pytest.raises(UserError, match="the text has 40000000 characters, allowed are up to"):
        mini_omni.new_conversation().begin_turn(20_000_000 * "hi")
