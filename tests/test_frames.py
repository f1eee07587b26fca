"""What a model may tell besides its reply: its frames, their times, and its codec."""

import numpy as np
import pytest
import torch
from small import small_model

from generate import generate_long
from models.contract import FramedTurn, SpeechCodec
from models.errors import UserError
from models.westlake.dual_ar import SamplingConfig


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def wave(seconds, rate):
    return (torch.rand(int(seconds * rate), generator=torch.Generator().manual_seed(0)) - 0.5) / 2


def test_a_replys_frames_are_what_is_heard(model):
    chunks = list(
        generate_long(model, text="你好", sampling=SamplingConfig(seed=1), max_new_tokens=9)
    )
    frames = [chunk.new_frames for chunk in chunks]
    num_frames = chunks[-1].total_frames
    assert sum(len(part.text) for part in frames) == num_frames == 9
    codes = np.concatenate([part.codes for part in frames], axis=1)
    assert codes.shape == (8, num_frames) and codes.min() >= 0
    heard = np.concatenate([chunk.new_audio for chunk in chunks])
    np.testing.assert_allclose(model.decode(codes), heard, atol=1e-4)
    for part in frames:
        assert [text == "<|semantic|>" for text in part.text] == part.semantic.tolist()


def test_each_frame_has_its_time(model):
    chunks = list(
        generate_long(model, text="你好", sampling=SamplingConfig(seed=1), max_new_tokens=9)
    )
    seconds = [second for chunk in chunks for second in chunk.frame_seconds]
    assert len(seconds) == 9 and seconds == sorted(seconds)
    assert seconds[0] == chunks[0].first_frame_seconds > 0


def test_a_users_turn_shows_how_it_is_read(model):
    conversation = model.new_conversation()
    turn = conversation.begin_turn("hi", model.sample_rate)
    turn.push(wave(1.0, model.sample_rate))
    assert isinstance(turn, FramedTurn)
    list(generate_long(model, audio=turn, max_new_tokens=2))
    frames = turn.frames
    assert "".join(frames.text).startswith("<|im_start|>user\nhi<|semantic|>")
    assert "".join(frames.text).endswith("<|im_end|><|im_start|>assistant\n")
    assert frames.codes.shape == (8, len(frames.text))
    np.testing.assert_array_equal(frames.codes[0] >= 0, frames.semantic)
    codes = model.encode(wave(1.0, model.sample_rate), model.sample_rate)
    np.testing.assert_array_equal(
        frames.codes[:, frames.semantic], codes[:, -frames.semantic.sum() :]
    )


@pytest.mark.parametrize("rate", [8000, 22050])
def test_the_codec_goes_there_and_back(model, rate):
    assert isinstance(model, SpeechCodec)
    codes = model.encode(wave(1.0, rate), rate)
    assert codes.dtype == np.int64 and len(codes) == 8
    copy = model.decode(codes)
    assert copy.dtype == np.float32
    assert len(copy) / model.sample_rate == pytest.approx(1.0, abs=2 / model.frame_rate)
    assert model.encode(wave(0.001, rate), rate).shape == (8, 1)
    assert model.decode(codes[:, :0]).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (np.zeros((7, 2), np.int64), "but must be whole numbers"),
        (np.zeros((8, 2), np.float32), "but must be whole numbers"),
        (np.zeros((1, 8, 2), np.int64), "but must be whole numbers"),
        (np.full((8, 2), 10**6), "allowed are 0 to"),
        (np.full((8, 2), -1), "allowed are 0 to"),
    ],
)
def test_codes_that_are_none_are_refused(model, codes, told):
    with pytest.raises(UserError, match=told):
        model.decode(codes)


def test_nothing_has_no_codes(model):
    with pytest.raises(UserError, match="no samples"):
        model.encode(torch.zeros(0), 16000)
