"""SNAC in pieces equals SNAC at once, and no bit of it depends on when codes come."""

import pytest
import torch
from torch import Tensor

from models.mini_omni.codec import LEVELS, SnacDecoder, SpeechStream, noise
from models.mini_omni.speech_model import MiniOmniModel

RATE = 2048  # samples a frame
SIZES = ((1, 2), (2, 16), (3, 5), (16, 4))


@pytest.fixture(scope="module")
def codec(mini_omni: MiniOmniModel) -> SnacDecoder:
    return mini_omni.checkpoint.codec


@pytest.fixture(scope="module")
def codes() -> Tensor:
    return torch.randint(0, 64, (7, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(codec: SnacDecoder, codes: Tensor) -> Tensor:
    return codec(codes, 0, 5)


def test_it_is_the_package_with_its_noise_fixed(codec, codes, whole, monkeypatch):
    num_frames, draw = codes.shape[1], torch.randn

    def fixed(shape, **others):
        if "generator" in others:
            return draw(shape, **others)
        return noise(range(num_frames), shape[-1] // num_frames, 5).view(shape)

    first, second, third = (codes[list(rows)].T.flatten()[None] for rows in LEVELS)
    assert second[0, :4].tolist() == [codes[1, 0], codes[4, 0], codes[1, 1], codes[4, 1]]
    monkeypatch.setattr("snac.layers.torch.randn", fixed)
    with torch.no_grad():
        expected = codec.snac.decode([first, second, third])[0, 0]
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)
    assert whole.shape == (num_frames * RATE,) and whole.std() > 0.01


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("num_frames", [1, 2, 4, 7, 24])
def test_pieces_equal_the_whole(codec, codes, sizes, num_frames):
    stream = SpeechStream(codec, 5, *sizes)
    pieces = [stream.push(frame) for frame in codes[:, :num_frames].split(1, 1)]
    first = next((n for n, piece in enumerate(pieces, 1) if len(piece)), None)
    assert first in (None, min(sizes) + codec.context), "a piece comes as soon as it is certain"
    pieces.append(stream.push(codes[:, :0], last=True))
    expected = codec(codes[:, :num_frames], 0, 5)
    torch.testing.assert_close(torch.cat(pieces), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES)
def test_no_bit_depends_on_when_codes_come(codec, codes, sizes):
    sounds = []
    for arrival in ([1] * 24, [24], [5, 0, 11, 1, 7], [23, 1]):
        stream = SpeechStream(codec, 5, *sizes)
        sounds.append(torch.cat([stream.push(piece) for piece in codes.split(arrival, 1)]))
        sounds[-1] = torch.cat([sounds[-1], stream.push(codes[:, :0], last=True)])
    assert len(sounds[0]) == 24 * RATE
    assert all(torch.equal(sound, sounds[0]) for sound in sounds)


def test_a_code_is_heard_as_far_as_the_context_and_no_further(codec, codes, whole):
    assert codec.context == 3
    changed = codes.clone()
    changed[:, 12] = (changed[:, 12] + 7) % 64
    difference = (codec(changed, 0, 5) - whole).abs().unflatten(0, (24, RATE)).amax(1)
    heard = difference > 1e-6
    assert heard[12 - 2 : 12 + 3].all() and not heard[: 12 - 3].any() and not heard[12 + 4 :].any()


def test_the_noise_is_of_a_position(codec, codes, whole):
    assert torch.equal(noise(range(3, 9), 32, 1)[64:], noise(range(5, 9), 32, 1))
    some = [noise(range(2), 256, 1), noise(range(2, 4), 256, 1), noise(range(2), 256, 2)]
    some.append(noise(range(2), 1024, 1)[:512])
    similarity = torch.corrcoef(torch.stack(some)) - torch.eye(4)
    assert similarity.abs().max() < 0.2
    assert (codec(codes, 0, 6) - whole).abs().max() > 1e-4
    long = noise(range(500), 32, 0)
    assert abs(long.mean()) < 0.02 and abs(long.std() - 1) < 0.02


def test_codes_that_it_lacks_sound_as_its_last(codec, codes):
    strange = codes[:, :4].clone()
    strange[3, 1], strange[6, 3] = 64 + 3, 1000
    allowed = strange.clamp(max=63)
    assert torch.equal(codec(strange, 0, 5), codec(allowed, 0, 5))
