"""A saved conversation goes on as it would have, and what is none is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from conversing import LONG_TEXT, RATE, answer, assert_sound, clip, noise
from safetensors.torch import save_file
from small import small_model

from models.errors import UserError
from models.load import load_model
from models.transformer.native import load_library
from models.westlake.dual_ar import SamplingConfig
from models.westlake.speech_model import WestlakeModel


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def test_a_saved_conversation_goes_on_identically(model, tmp_path):
    conversation = model.new_conversation()
    for seed, text in enumerate(("你好", LONG_TEXT)):
        answer(conversation, audio=clip(0.3, seed), text=text)
    conversation.save(tmp_path / "talk.safetensors")
    restored = model.load_conversation(tmp_path / "talk.safetensors")
    assert torch.equal(restored.columns, conversation.columns)
    for text in ("再见", "好"):
        left, right = (answer(c, text=text) for c in (conversation, restored))
        np.testing.assert_allclose(left, right, atol=1e-4)
    assert torch.equal(restored.columns, conversation.columns)


@pytest.mark.skipif(load_library() is None, reason="native.c can't be compiled here")
def test_in_few_bits_it_goes_on_to_the_bit(tmp_path):
    """So it is where a replica dies: another one reads the columns, all at once."""
    model = load_model("tiny", dtype="int8")
    conversation = model.new_conversation()
    for seed, text in enumerate(("最近心情不好，能聊聊吗？", "你好")):
        answer(conversation, 12, SamplingConfig(seed=seed), audio=clip(0.5, seed), text=text)
    conversation.save(tmp_path / "talk")
    restored = model.load_conversation(tmp_path / "talk")
    left, right = (answer(c, 30, text="我并不喜欢现在的工作。") for c in (conversation, restored))
    assert len(left) and np.array_equal(left, right)
    for one, other in zip(conversation.cache._layers, restored.cache._layers, strict=True):
        length = restored.cache.length
        assert torch.equal(one[:, :, :length], other[:, :, :length])


def test_an_empty_conversation_can_be_saved(model, tmp_path):
    model.new_conversation().save(tmp_path / "talk.safetensors")
    assert model.load_conversation(tmp_path / "talk.safetensors").turns == []


def test_saving_leaves_an_open_turn_out(model, tmp_path):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    columns = conversation.columns
    turn = conversation.begin_turn("再见", RATE)
    turn.push(noise(0.2))
    conversation.save(tmp_path / "talk.safetensors")
    restored = model.load_conversation(tmp_path / "talk.safetensors")
    assert torch.equal(restored.columns, columns)
    assert_sound(restored)


def column_file(path, columns, name="small", lengths="5"):
    save_file({"turn.0000": columns}, path, {"checkpoint": name, "prompt_lengths": lengths})


GOOD = torch.ones(9, 12, dtype=torch.long)


DAMAGED = {
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello, this is no such file"),
    "no metadata": lambda path: save_file({"turn.0000": GOOD}, path),
    "no lengths": lambda path: save_file({"turn.0000": GOOD}, path, {"checkpoint": "small"}),
    "too many lengths": lambda path: column_file(path, GOOD, lengths="5,6"),
    "no number": lambda path: column_file(path, GOOD, lengths="five"),
    "too long a prompt": lambda path: column_file(path, GOOD, lengths="12"),
    "floats": lambda path: column_file(path, GOOD.float()),
    "other codebooks": lambda path: column_file(path, GOOD[:5].contiguous()),
    "one dimension": lambda path: column_file(path, GOOD[0].contiguous()),
    "too high a code": lambda path: column_file(path, GOOD * 2000),
    "negative": lambda path: column_file(path, -GOOD),
    "another checkpoint": lambda path: column_file(path, GOOD, name="tiny"),
    "more than the context": lambda path: column_file(path, GOOD.repeat(1, 30)),
    "ten thousand turns": lambda path: save_file(
        {f"turn.{index:05d}": GOOD.clone() for index in range(10_000)},
        path,
        {"checkpoint": "small", "prompt_lengths": ",".join(["5"] * 10_000)},
    ),
}


@pytest.mark.parametrize("write", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_saved_conversation_is_refused(model, tmp_path, write):
    write(tmp_path / "talk.safetensors")
    with pytest.raises(ValueError, match="talk.safetensors"):
        model.load_conversation(tmp_path / "talk.safetensors")


def test_a_cut_off_file_is_refused(model, tmp_path):
    column_file(tmp_path / "talk", GOOD)
    model.load_conversation(tmp_path / "talk")
    data = (tmp_path / "talk").read_bytes()
    (tmp_path / "talk").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="no saved conversation"):
        model.load_conversation(tmp_path / "talk")


def test_a_saved_conversation_belongs_to_the_weights_and_not_to_their_name(model, tmp_path):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    conversation.save(tmp_path / "talk")
    renamed = dataclasses.replace(model.checkpoint, name="checkpoints/small")
    restored = WestlakeModel(renamed).load_conversation(tmp_path / "talk")
    assert torch.equal(restored.columns, conversation.columns)
    other = WestlakeModel(dataclasses.replace(model.checkpoint, fingerprint="other weights"))
    with pytest.raises(UserError, match="talk was saved with the checkpoint small, whose weights"):
        other.load_conversation(tmp_path / "talk")


def test_a_saved_conversation_tells_no_place_of_a_folder(model, tmp_path):
    placed = dataclasses.replace(model.checkpoint, name="/srv/secret/checkpoint")
    conversation = WestlakeModel(placed).new_conversation()
    answer(conversation, text="你好")
    conversation.save(tmp_path / "talk")
    content = (tmp_path / "talk").read_bytes()
    assert b"secret" not in content and b"checkpoint" in content
    model.load_conversation(tmp_path / "talk")


@pytest.mark.parametrize("path", ["missing/talk", "."])
def test_a_conversation_that_cannot_be_written(model, tmp_path, path):
    with pytest.raises(UserError, match="can't be written") as error:
        model.new_conversation().save(tmp_path / path)
    assert str(tmp_path) not in str(error.value)
