"""What `auto` takes: int8 wherever the memory's speed lets it speak in real time."""

from ctypes import CDLL
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from loguru import logger

from models.transformer.native import PANEL, load_library
from models.westlake import fastest
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.fastest import bytes_per_frame, fastest_dtype, read_speed

# The published shape.
LARGE = DualARConfig(
    vocab_size=152_000,
    n_layer=24,
    n_head=14,
    dim=896,
    intermediate_size=4864,
    intermediate_size_fast=4864,
    n_local_heads=2,
    n_local_heads_fast=2,
    n_fast_layer=4,
    codebook_size=1032,
    num_codebooks=8,
)
SLOW_BYTES, FAST_BYTES = 494_089_216, 60_569_600
SMALL = replace(LARGE, vocab_size=1000, n_layer=2)
FRAME_RATE = 21.53
CPU = torch.device("cpu")


def library_of(isa: str) -> CDLL:
    return Mock(native_isa=lambda: isa.encode())


LIBRARY = library_of("avx512")


def built(config: DualARConfig) -> DualARTransformer:
    with torch.device("meta"):
        return DualARTransformer(config, 0)


@pytest.fixture(scope="module")
def large() -> DualARTransformer:
    return built(LARGE)


@pytest.fixture
def lines():
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]))
    yield lines
    logger.remove(sink)


def give_speeds(monkeypatch: pytest.MonkeyPatch, memory: float, cache: float) -> None:
    """Bytes a second."""
    measured = {fastest.MEASURED_BYTES: memory, FAST_BYTES: cache}
    monkeypatch.setattr(fastest, "read_speed", lambda _, size: measured[size])


@pytest.mark.parametrize(
    ("isa", "memory", "cache", "expected", "told"),
    [
        ("avx512", 70, 70, "int8", "auto takes int8: memory reads 70 GB/s"),
        ("avx512", 36, 36, "int8", "would take 0.74"),
        ("avx512", 27, 48, "int8", "would take 0.76"),
        ("avx512", 25, 25, "int4", "auto takes int4: memory reads 25 GB/s"),
        ("avx2", 36, 36, "int4", "would take 1.09"),
        ("amx", 16, 16, "int4", "of work in int8, at most 0.9 are wanted"),
    ],
)
def test_a_large_model_is_int8_where_memory_is_fast_enough(
    large, lines, monkeypatch, isa, memory, cache, expected, told
):
    give_speeds(monkeypatch, memory * 1e9, cache * 1e9)
    assert fastest_dtype(large, CPU, library_of(isa), FRAME_RATE) == expected
    assert len(lines) == 1 and told in lines[0]


def test_a_tenth_is_to_spare(large, monkeypatch):
    slow, fast = bytes_per_frame(large)
    steps = fastest.MOST_WORK - fastest.OTHER_SECONDS["avx512"]
    border = FRAME_RATE * (slow + LARGE.num_codebooks * fast) / steps
    for speed, expected in ((1.01 * border, "int8"), (0.99 * border, "int4")):
        give_speeds(monkeypatch, speed, speed)
        assert fastest_dtype(large, CPU, LIBRARY, FRAME_RATE) == expected


@pytest.mark.parametrize(
    ("config", "device", "library", "expected"),
    [
        (LARGE, "cuda", None, "bfloat16"),
        (LARGE, "cpu", None, "int8"),
        (SMALL, "cpu", None, "float32"),
        (SMALL, "cpu", LIBRARY, "int8"),
        (replace(LARGE, intermediate_size=4865), "cpu", LIBRARY, "int8"),
    ],
)
def test_where_memory_does_not_decide_it_is_not_measured(
    monkeypatch, lines, config, device, library, expected
):
    monkeypatch.setattr(fastest, "read_speed", Mock(side_effect=AssertionError))
    assert fastest_dtype(built(config), torch.device(device), library, FRAME_RATE) == expected
    assert not lines


def test_what_a_frame_reads(large):
    fast = sum(
        x.numel() for part in (large.fast_layers, large.fast_output) for x in part.parameters()
    )
    slow = sum(x.numel() for x in large.layers.parameters()) + large.embed_tokens.weight.numel()
    assert bytes_per_frame(large) == (slow, fast) == (SLOW_BYTES, FAST_BYTES)


def test_the_speed_is_a_products_in_the_median_of_some_passes(monkeypatch):
    library = load_library()
    if library is None:
        pytest.skip("there is no library on this CPU")
    times = iter([0, 3, 10, 12, 20, 24, 30, 33, 40, 43])
    monkeypatch.setattr(fastest, "thread_time", lambda: next(times))
    asked = 3 * PANEL * fastest.NUM_INPUTS
    assert read_speed(library, asked + 1000) == asked / 3


def test_the_speed_of_this_machine_is_one():
    library = load_library()
    if library is None:
        pytest.skip("there is no library on this CPU")
    assert 1e8 < read_speed(library, 1 << 24) < 1e12
