"""A signal in pieces gives what the whole signal gives, and streams share nothing."""

import random
from collections.abc import Iterable

import pytest
import torch
from parity import ASSETS
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import parametrize

from models.westlake.firefly import FireflyArchitecture, StreamState

pytestmark = pytest.mark.usefixtures("no_grad")

ATOL = 1e-4
MIN_EQUAL_CODES = 0.999  # a value on a rounding border may flip


def make_wave(num_samples: int, *, batch_size: int = 1, seed: int = 0) -> Tensor:
    """Noise whose loudness rises and falls: [B, 1, num_samples]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch_size, 1, num_samples, generator=generator)
    return 0.2 * noise * torch.linspace(0, 20, num_samples).sin()


def make_codes(
    codec: FireflyArchitecture, num_frames: int, *, batch_size: int = 1, seed: int = 0
) -> Tensor:
    """Random codes [batch_size, K, num_frames]."""
    shape = (batch_size, codec.config.num_codebooks, num_frames)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(codec.config.codebook_size, shape, generator=generator)


def random_sizes(total: int, max_pieces: int, seed: int) -> list[int]:
    """Sizes >= 0 that add up to total; two cuts at one place make an empty piece."""
    rng = random.Random(seed)
    cuts = sorted(rng.randint(0, total) for _ in range(rng.randint(1, max_pieces - 1)))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total])]


def encode_whole(codec: FireflyArchitecture, wave: Tensor) -> Tensor:
    return codec.encode(wave, torch.full((wave.shape[0],), wave.shape[-1]))[0]


def decode_whole(codec: FireflyArchitecture, codes: Tensor) -> Tensor:
    return codec.decode(codes, torch.full((codes.shape[0],), codes.shape[-1]))[0]


def encode_pieces(
    codec: FireflyArchitecture, wave: Tensor, sizes: Iterable[int], state: StreamState | None = None
) -> Tensor:
    state = state or codec.new_state(wave.shape[0])
    pieces = wave.split(list(sizes), dim=-1)
    return torch.cat(
        [
            codec.encode_chunk(piece, state, last=i == len(pieces) - 1)
            for i, piece in enumerate(pieces)
        ],
        dim=-1,
    )


def decode_pieces(
    codec: FireflyArchitecture,
    codes: Tensor,
    sizes: Iterable[int],
    state: StreamState | None = None,
) -> Tensor:
    state = state or codec.new_state(codes.shape[0])
    pieces = codes.split(list(sizes), dim=-1)
    return torch.cat([codec.decode_chunk(piece, state) for piece in pieces], dim=-1)


def assert_same_codes(actual: Tensor, expected: Tensor, note: object = "") -> None:
    assert actual.dtype == expected.dtype == torch.long
    assert actual.shape == expected.shape, note
    equal = (actual == expected).double().mean().item()
    assert equal >= MIN_EQUAL_CODES, f"only {equal:.2%} of the codes are equal {note}"


def assert_same_audio(actual: Tensor, expected: Tensor, note: object = "") -> None:
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=0, msg=lambda m: f"{m}\n{note}")


@parametrize.cached()  # the weights of all pieces are the same
def check_random_chunkings(
    codec: FireflyArchitecture, wave: Tensor, codes: Tensor, *, num: int, max_pieces: int
) -> None:
    """`num` random chunkings each of encode and decode against the whole signal."""
    whole_codes, whole_audio = encode_whole(codec, wave), decode_whole(codec, codes)
    streamed = []
    for seed in range(num):
        streamed.append(encode_pieces(codec, wave, random_sizes(wave.shape[-1], max_pieces, seed)))
        sizes = random_sizes(codes.shape[-1], max_pieces, seed)
        assert_same_audio(decode_pieces(codec, codes, sizes), whole_audio, f"chunks {sizes}")
    assert_same_codes(torch.cat(streamed), whole_codes.expand(num, -1, -1))


@pytest.mark.slow
def test_full_size_stream_equals_offline(full_codec: FireflyArchitecture):
    golden = load_file(ASSETS / "firefly.safetensors")
    check_random_chunkings(
        full_codec,
        golden["wav"][:1, :, :25900],  # 50 mels and a part of one: 12.5 code frames
        golden["decode_codes"][:1, :, :6],
        num=10,
        max_pieces=6,
    )


def test_small_stream_equals_offline(small_codec: FireflyArchitecture):
    check_random_chunkings(
        small_codec,
        make_wave(20 * small_codec.config.samples_per_frame + 777),
        make_codes(small_codec, 24),
        num=40,
        max_pieces=10,
    )


def test_full_size_one_frame_at_a_time(full_codec: FireflyArchitecture):
    golden = load_file(ASSETS / "firefly.safetensors")
    frame = full_codec.config.samples_per_frame
    wave, codes = golden["wav"][:1, :, : 6 * frame], golden["decode_codes"][:1, :, :6]
    state = full_codec.new_state()  # one conversation: its two directions share a state
    streamed = encode_pieces(full_codec, wave, [frame] * 6, state)
    assert_same_codes(streamed, encode_whole(full_codec, wave))
    assert_same_audio(
        decode_pieces(full_codec, codes, [1] * 6, state), decode_whole(full_codec, codes)
    )


def test_small_one_frame_at_a_time(small_codec: FireflyArchitecture):
    frame = small_codec.config.samples_per_frame
    wave, codes = make_wave(30 * frame), make_codes(small_codec, 30)
    streamed = encode_pieces(small_codec, wave, [frame] * 30)
    assert_same_codes(streamed, encode_whole(small_codec, wave))
    assert_same_audio(decode_pieces(small_codec, codes, [1] * 30), decode_whole(small_codec, codes))


def test_one_sample_at_a_time(small_codec: FireflyArchitecture):
    wave = make_wave(2 * small_codec.config.samples_per_frame + 300)
    streamed = encode_pieces(small_codec, wave, [1] * wave.shape[-1])
    assert_same_codes(streamed, encode_whole(small_codec, wave))


def test_a_batch_streams_as_one(small_codec: FireflyArchitecture):
    wave, codes = make_wave(9000, batch_size=3), make_codes(small_codec, 9, batch_size=3)
    streamed = encode_pieces(small_codec, wave, random_sizes(9000, 6, seed=1))
    assert_same_codes(streamed, encode_whole(small_codec, wave))
    assert_same_audio(
        decode_pieces(small_codec, codes, [2, 3, 4]), decode_whole(small_codec, codes)
    )


def test_folded_weights_stream_the_same(small_codec: FireflyArchitecture):
    folded = FireflyArchitecture(small_codec.config).eval()
    folded.load_state_dict(small_codec.state_dict())
    folded.fold_weight_norm()
    codes = make_codes(small_codec, 8)
    assert_same_audio(decode_pieces(folded, codes, [3, 1, 4]), decode_whole(small_codec, codes))


@pytest.mark.parametrize("num_mels", [4, 5, 6, 7, 8, 9, 11, 17])
@pytest.mark.parametrize("extra_samples", [0, 1, 255])
def test_last_frame_may_be_partly_filled(
    small_codec: FireflyArchitecture, num_mels: int, extra_samples: int
):
    config = small_codec.config
    wave = make_wave(num_mels * config.hop_length + extra_samples)
    whole = encode_whole(small_codec, wave)
    assert whole.shape[-1] == -(-num_mels // config.mels_per_frame)
    for sizes in ([wave.shape[-1]], [wave.shape[-1], 0], random_sizes(wave.shape[-1], 5, num_mels)):
        assert_same_codes(encode_pieces(small_codec, wave, sizes), whole, f"chunks {sizes}")


def test_empty_pieces_change_nothing(small_codec: FireflyArchitecture):
    wave, codes = make_wave(7000), make_codes(small_codec, 5)
    streamed = encode_pieces(small_codec, wave, [0, 0, 100, 0, 5000, 0, 1900, 0])
    assert_same_codes(streamed, encode_whole(small_codec, wave))
    assert_same_audio(
        decode_pieces(small_codec, codes, [0, 2, 0, 0, 3, 0]), decode_whole(small_codec, codes)
    )


def test_a_frame_comes_as_soon_as_its_samples_are_there(small_codec: FireflyArchitecture):
    config, mel = small_codec.config, small_codec.spec_transform
    state, num_frames = small_codec.new_state(), 0
    step = config.hop_length // 2
    for start in range(0, 40 * step, step):
        codes = small_codec.encode_chunk(make_wave(step, seed=start), state)
        assert codes.shape[:2] == (1, config.num_codebooks)
        num_frames += codes.shape[-1]
        known = start + step + mel.left_padding
        num_mels = max(0, (known - config.win_length) // config.hop_length + 1)
        assert num_frames == num_mels // config.mels_per_frame
    assert num_frames > 0


def test_decoded_pieces_have_their_whole_length(small_codec: FireflyArchitecture):
    state = small_codec.new_state()
    for num_frames in (1, 0, 3):
        audio = small_codec.decode_chunk(make_codes(small_codec, num_frames), state)
        assert audio.shape == (1, 1, num_frames * small_codec.config.samples_per_frame)


@pytest.mark.parametrize("sizes", [[0], [1], [384], [100, 284], [100, 284, 0]])
def test_too_short_a_signal_is_an_error(small_codec: FireflyArchitecture, sizes: list[int]):
    with pytest.raises(ValueError, match=rf"{sum(sizes)} samples is too short .* at least 385"):
        encode_pieces(small_codec, make_wave(sum(sizes)), sizes)


@pytest.mark.parametrize("sizes", [[385], [384, 1], [1, 384], [100, 285, 0]])
def test_the_shortest_signal(small_codec: FireflyArchitecture, sizes: list[int]):
    wave = make_wave(small_codec.spec_transform.min_samples)
    assert wave.shape[-1] == 385
    assert_same_codes(encode_pieces(small_codec, wave, sizes), encode_whole(small_codec, wave))


def test_wrong_use_is_an_error(small_codec: FireflyArchitecture):
    state = small_codec.new_state()
    with pytest.raises(ValueError, match="batch of 2 .* state for 1"):
        small_codec.encode_chunk(make_wave(1000, batch_size=2), state)
    with pytest.raises(ValueError, match="batch of 2 .* state for 1"):
        small_codec.decode_chunk(make_codes(small_codec, 1, batch_size=2), state)
    for bad in (-1, small_codec.config.codebook_size):
        codes = torch.full((1, small_codec.config.num_codebooks, 2), bad)
        with pytest.raises(ValueError, match=f"codes must be 0 to 999, got {bad}"):
            small_codec.decode_chunk(codes, state)
    small_codec.encode_chunk(make_wave(1000), state, last=True)
    with pytest.raises(ValueError, match="has had its last piece"):
        small_codec.encode_chunk(make_wave(1000), state)


def test_a_state_does_not_grow(small_codec: FireflyArchitecture):
    state = small_codec.new_state()
    num_bytes, num_stored = {}, {}
    for frame in range(1, 201):
        wave = make_wave(small_codec.config.samples_per_frame, seed=frame)
        codes = small_codec.encode_chunk(wave, state)
        small_codec.decode_chunk(codes, state)
        num_bytes[frame] = state.num_bytes
        # a slice would keep the memory of the whole tensor it was cut from
        num_stored[frame] = sum(b.untyped_storage().nbytes() for b in state.buffers.values())
    assert num_bytes[20] == num_bytes[200] > 0
    assert num_stored[20] == num_stored[200] == num_bytes[200]


def test_interleaved_streams_do_not_disturb_each_other(small_codec: FireflyArchitecture):
    frame = small_codec.config.samples_per_frame
    waves = [make_wave(12 * frame, seed=seed) for seed in (1, 2)]
    codes = [make_codes(small_codec, 12, seed=seed) for seed in (1, 2)]
    states = [small_codec.new_state(), small_codec.new_state()]
    heard, spoken = ([], []), ([], [])
    for start in range(0, 12, 3):
        for i in (0, 1):
            piece = waves[i][..., start * frame : (start + 3) * frame]
            heard[i].append(small_codec.encode_chunk(piece, states[i], last=start == 9))
            spoken[i].append(small_codec.decode_chunk(codes[i][..., start : start + 3], states[i]))
    for i in (0, 1):
        alone = encode_pieces(small_codec, waves[i], [3 * frame] * 4)
        assert torch.equal(torch.cat(heard[i], dim=-1), alone)
        alone = decode_pieces(small_codec, codes[i], [3] * 4)
        assert torch.equal(torch.cat(spoken[i], dim=-1), alone)
        assert_same_codes(torch.cat(heard[i], dim=-1), encode_whole(small_codec, waves[i]))
        assert_same_audio(torch.cat(spoken[i], dim=-1), decode_whole(small_codec, codes[i]))


@pytest.mark.parametrize("size", [100, 1000])
def test_the_caller_may_reuse_its_buffers(small_codec: FireflyArchitecture, size: int):
    wave = make_wave(5000)
    state, buffer, streamed = small_codec.new_state(), torch.empty(1, 1, size), []
    for piece in wave.split(size, dim=-1):
        buffer.copy_(piece)
        streamed.append(small_codec.encode_chunk(buffer, state))
    streamed.append(small_codec.encode_chunk(buffer[..., :0], state, last=True))
    assert_same_codes(torch.cat(streamed, dim=-1), encode_whole(small_codec, wave))


def test_modules_remember_nothing(small_codec: FireflyArchitecture):
    tensors = [*small_codec.named_parameters(), *small_codec.named_buffers()]
    before = {name: tensor.clone() for name, tensor in tensors}
    encode_pieces(small_codec, make_wave(5000), [2000, 3000])
    decode_pieces(small_codec, make_codes(small_codec, 4), [1, 3])
    after = dict([*small_codec.named_parameters(), *small_codec.named_buffers()])
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
