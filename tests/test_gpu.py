"""On a GPU a checkpoint hears and says what it does on the CPU, alone or with others."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from small_checkpoint import new_model, save_small

from generate import generate_long
from models.devices import find_device
from models.load import load_model
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.dual_ar import EagerEngine, Reply, SamplingConfig, make_frames, next_frames
from models.westlake.firefly import FireflyArchitecture

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_grad")]

GPU = "cuda"
GREEDY = SamplingConfig(top_p=1e-6, seed=1)
NUM_FRAMES = 100
LOGITS = 1e-4  # relative to the largest, in float32
BFLOAT16 = 0.03  # of states and sound, relative, where 8 bits are kept of each number
SOUND = 2e-4  # of the loudest sample, in float32


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory, small_codec):
    return save_small(tmp_path_factory.mktemp("small"), new_model(), small_codec)


@pytest.fixture(scope="module", params=["small", "tiny"])
def both(request, small_folder) -> list[Checkpoint]:
    """A checkpoint in float32, on the CPU and on the GPU."""
    name = small_folder if request.param == "small" else request.param
    return [load_checkpoint(name, device, "float32") for device in ("cpu", GPU)]


def prompt_of(checkpoint: Checkpoint, length: int = 24, seed: int = 0) -> torch.Tensor:
    """Speech that somebody could have said, [1+K, length]."""
    config = checkpoint.model.config
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(
        1, config.codebook_size, (config.num_codebooks, length), generator=generator
    )
    return torch.cat([torch.full((1, length), checkpoint.semantic_id), codes])


def new_reply(checkpoint, num_frames=NUM_FRAMES, *, seed=0, length=24, sampling=GREEDY) -> Reply:
    prompt = prompt_of(checkpoint, length, seed)
    return Reply(checkpoint.model, prompt, num_frames, sampling)


def spoken(engine: EagerEngine, *replies: Reply) -> list[torch.Tensor]:
    """Each reply's frames [1+K, n], stepped together."""
    for _ in make_frames(partial(next_frames, engine), replies):
        pass
    return [torch.stack(reply.frames, dim=1).cpu() for reply in replies]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of all numbers together."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return float((found - expected).norm() / expected.norm())


def test_logits_are_those_of_the_cpu(both):
    expected, found = (
        model.text_logits(hidden).cpu()
        for model, hidden in (
            (each.model, each.model.forward_hidden(prompt_of(each, 60)[None].to(each.device)))
            for each in both
        )
    )
    assert float((found - expected).abs().max()) <= LOGITS * float(expected.abs().max())


def test_greedy_replies_are_those_of_the_cpu(both):
    expected, found = (spoken(each.engine, new_reply(each))[0] for each in both)
    assert expected.shape[1] == NUM_FRAMES
    assert torch.equal(found, expected)


def test_states_in_bfloat16_are_near(both):
    exact, near = both[0].model, load_checkpoint(both[1].name, GPU, "bfloat16").model
    grid = prompt_of(both[0], 60)[None]
    expected, found = exact.forward_hidden(grid), near.forward_hidden(grid.to(GPU))
    assert 0 < error(found, expected) < BFLOAT16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_replies_of_graphs_are_those_without(dtype):
    checkpoint = load_checkpoint("tiny", GPU, dtype)
    assert checkpoint.engine.name == "graph"
    sampling = SamplingConfig(seed=3)
    replies = [
        spoken(
            engine,
            *(
                new_reply(checkpoint, 20 + 8 * seed, seed=seed, length=20 + seed, sampling=sampling)
                for seed in range(3)
            ),
        )
        for engine in (EagerEngine(checkpoint.model), checkpoint.engine)
    ]
    for expected, found in zip(*replies):
        assert torch.equal(found, expected)


def test_users_together_hear_what_each_hears_alone(both):
    checkpoint = both[1]
    asked = [{"seed": seed, "length": 10 + 5 * seed, "num_frames": 40} for seed in range(4)]
    alone = [spoken(checkpoint.engine, new_reply(checkpoint, **each))[0] for each in asked]
    together = spoken(checkpoint.engine, *(new_reply(checkpoint, **each) for each in asked))
    for found, expected in zip(together, alone):
        assert torch.equal(found, expected)


def test_speech_that_comes_frame_by_frame_is_read_by_graphs(small_folder):
    """It is read outside of inference mode, in which the graphs were recorded."""
    told = []
    for num_pieces in (1, 24):
        model = load_model(small_folder, GPU, "float32")
        rate = model.sample_rate
        generator = torch.Generator().manual_seed(0)
        wave = 0.2 * torch.randn(rate, generator=generator)
        turn = model.new_conversation().begin_turn(sample_rate=rate)
        for piece in wave.chunk(num_pieces):
            turn.push(piece)
        chunks = list(generate_long(model, audio=turn, sampling=GREEDY, max_new_tokens=12))
        told.append([chunk.new_frames.codes for chunk in chunks])
    assert all(map(np.array_equal, *told))


@pytest.fixture(scope="module", params=["full", "tiny"])
def codecs(request, full_codec) -> list[FireflyArchitecture]:
    """A codec in float32, on the CPU and on the GPU."""
    if request.param == "tiny":
        return [load_checkpoint("tiny", device, "float32").codec for device in ("cpu", GPU)]
    made = []
    for name in ("cpu", GPU):
        codec = FireflyArchitecture(full_codec.config).eval()  # no copy: it shares weight norm
        codec.load_state_dict(full_codec.state_dict())
        made.append(codec.to(find_device(name)).prepare_inference())
    return made


def sound_of(codec: FireflyArchitecture, num_frames: int = 40) -> torch.Tensor:
    """A chord with noise, [1, 1, T]."""
    rate = codec.config.sample_rate
    time = torch.arange(num_frames * codec.config.samples_per_frame) / rate
    chord = sum(torch.sin(2 * torch.pi * pitch * time) for pitch in (110, 440, 1234))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return (0.1 * chord + 0.02 * noise)[None, None]


def codes_of(codec: FireflyArchitecture, num_frames: int = 40) -> torch.Tensor:
    shape = 1, codec.config.num_codebooks, num_frames
    generator = torch.Generator().manual_seed(1)
    return torch.randint(codec.config.codebook_size, shape, generator=generator)


def test_a_sound_has_the_codes_that_the_cpu_gives_it(codecs):
    wave = sound_of(codecs[0])
    lengths = torch.tensor([wave.shape[-1]])
    expected, _ = codecs[0].encode(wave, lengths)
    found, _ = codecs[1].encode(wave.to(GPU), lengths.to(GPU))
    assert torch.equal(found.cpu(), expected)


def test_codes_sound_as_on_the_cpu(codecs):
    codes, lengths = codes_of(codecs[0]), torch.tensor([40])
    expected, _ = codecs[0].decode(codes, lengths)
    found, _ = codecs[1].decode(codes.to(GPU), lengths.to(GPU))
    assert float((found.cpu() - expected).abs().max()) <= SOUND * float(expected.abs().max())
    rounded = copy.deepcopy(codecs[1])
    rounded.head.to(torch.bfloat16)
    found, _ = rounded.decode(codes.to(GPU), lengths.to(GPU))
    assert 0 < error(found, expected) < BFLOAT16


def test_a_stream_on_the_gpu_is_the_whole(codecs):
    codec = codecs[1]
    wave, codes = sound_of(codec).to(GPU), codes_of(codec).to(GPU)
    state, pieces = codec.new_state(), wave.split(7000, dim=2)
    found = [
        codec.encode_chunk(piece, state, last=place == len(pieces))
        for place, piece in enumerate(pieces, start=1)
    ]
    lengths = torch.tensor([wave.shape[-1]], device=GPU)
    assert torch.equal(torch.cat(found, dim=2), codec.encode(wave, lengths)[0])
    state = codec.new_state()
    sound = torch.cat([codec.decode_chunk(piece, state) for piece in codes.split(7, 2)], dim=2)
    whole, _ = codec.decode(codes, torch.tensor([40], device=GPU))
    assert float((sound - whole).abs().max()) <= SOUND * float(whole.abs().max())


def test_it_speaks_as_it_is_used():
    model = load_model("tiny", "auto")
    assert (model.device, model.dtype) == (GPU, "bfloat16")
    model.warm_up()
    waves = []
    for _ in range(2):
        options = {"sampling": SamplingConfig(seed=5), "max_new_tokens": 30}
        chunks = list(generate_long(model, text="最近心情不好，能聊聊吗？", **options))
        waves.append(np.concatenate([chunk.new_audio for chunk in chunks]))
    assert len(waves[0]) and np.isfinite(waves[0]).all() and np.array_equal(*waves)
