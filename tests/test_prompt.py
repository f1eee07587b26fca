"""A turn's layout, whole and while it is spoken."""

import pytest
import torch

from models.westlake.dual_ar import (
    DualARConfig,
    DualARTransformer,
    PromptTokens,
    TurnStream,
    turn_grid,
)

TOKENS = PromptTokens(semantic=5, end=2, user=(1, 20, 10), assistant=(1, 21, 10))
OPENING, CLOSING = [1, 20, 10], [2, 1, 21, 10]
NUM_CODEBOOKS = 2
TEXT = [30, 31, 32]


def speech(num_frames):
    return torch.arange(NUM_CODEBOOKS * num_frames).view(NUM_CODEBOOKS, num_frames)


def test_special_tokens_are_looked_up():
    ids = {"<|im_start|>user\n": [1, 20, 10], "<|im_start|>assistant\n": [1, 21, 10]}
    ids |= {"<|im_end|>": [2], "<|semantic|>": [5]}
    assert PromptTokens.from_encode(ids.__getitem__) == TOKENS
    with pytest.raises(ValueError, match=r"splits <\|semantic\|> into 3 tokens"):
        PromptTokens.from_encode({**ids, "<|semantic|>": [7, 8, 9]}.__getitem__)


@pytest.mark.parametrize(
    "text, num_frames, row_0, codes_start",
    [
        ([], 4, [5, 5, 5, 5], 0),
        (TEXT, 4, [30, 31, 32, 5], 0),
        (TEXT, 3, [30, 31, 32], 0),
        (TEXT, 2, [30, 31, 32, 5, 5], 3),
        (TEXT, 0, [30, 31, 32], 3),
    ],
)
def test_layout(text, num_frames, row_0, codes_start):
    codes = speech(num_frames)
    grid = turn_grid(TOKENS, text, codes if num_frames else None, NUM_CODEBOOKS)
    assert grid.dtype == torch.long
    assert grid[0].tolist() == OPENING + row_0 + CLOSING
    expected = torch.zeros_like(grid[1:])
    start = len(OPENING) + codes_start
    expected[:, start : start + num_frames] = codes + 1
    assert torch.equal(grid[1:], expected)


def test_a_further_turn_closes_the_reply_before():
    first = turn_grid(TOKENS, TEXT, speech(5), NUM_CODEBOOKS)
    further = turn_grid(TOKENS, TEXT, speech(5), NUM_CODEBOOKS, after_reply=True)
    assert further[:, 0].tolist() == [2, 0, 0]
    assert torch.equal(further[:, 1:], first)


@pytest.mark.parametrize("after_reply", [False, True])
@pytest.mark.parametrize("text", [[], TEXT])
@pytest.mark.parametrize("sizes", [[7], [1] * 7, [0, 2, 3, 2], [2], [3], [1, 1, 2]])
def test_a_streamed_turn_is_the_whole_turn(text, sizes, after_reply):
    codes = speech(sum(sizes))
    stream = TurnStream(TOKENS, text, NUM_CODEBOOKS, after_reply=after_reply)
    parts = [stream.start()]
    parts += [stream.push(piece) for piece in codes.split(sizes, dim=1)]
    parts += [stream.finish()]
    streamed = torch.cat(parts, dim=1)
    whole = turn_grid(TOKENS, text, codes, NUM_CODEBOOKS, after_reply=after_reply)
    assert torch.equal(streamed[0], whole[0])
    config = DualARConfig(
        vocab_size=40, n_layer=1, n_head=2, dim=8, intermediate_size=8, num_codebooks=2
    )
    model = DualARTransformer(config, TOKENS.semantic)
    assert torch.equal(model.embed(streamed[None]), model.embed(whole[None]))


def test_a_streamed_turn_of_text_alone():
    stream = TurnStream(TOKENS, TEXT, NUM_CODEBOOKS)
    streamed = torch.cat([stream.start(), stream.finish()], dim=1)
    assert torch.equal(streamed, turn_grid(TOKENS, TEXT, None, NUM_CODEBOOKS))


def test_speech_goes_out_as_soon_as_it_is_certain():
    stream = TurnStream(TOKENS, TEXT, NUM_CODEBOOKS)
    pushed = [stream.push(speech(1)).shape[1] for _ in range(5)]
    assert pushed == [0, 0, 0, 1, 1]


def test_wrong_turns_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2, 3\].*\[2, n\]"):
        turn_grid(TOKENS, [], torch.zeros(1, 2, 3), NUM_CODEBOOKS)
    with pytest.raises(ValueError, match="neither text nor speech"):
        turn_grid(TOKENS, [], None, NUM_CODEBOOKS)
    stream = TurnStream(TOKENS, [], NUM_CODEBOOKS)
    stream.push(speech(0))
    with pytest.raises(ValueError, match="neither text nor speech"):
        stream.finish()
