"""What `auto` takes: int8 wherever the memory's speed lets it speak in real time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from loguru import logger

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
SMALL = replace(LARGE, vocab_size=1000, n_layer=2)
FRAME_RATE = 21.53
CPU, LIBRARY = torch.device("cpu"), Mock(CDLL)


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


@pytest.mark.parametrize(
    ("gigabytes", "expected", "told"),
    [
        (70, "int8", "auto takes int8: memory reads 70 GB/s"),
        (36, "int8", "would take 0.8"),
        (28, "int4", "auto takes int4: memory reads 28 GB/s"),
        (16, "int4", "of work in int8, at most 0.9 are wanted"),
    ],
)
def test_a_large_model_is_int8_where_memory_is_fast_enough(
    large, lines, monkeypatch, gigabytes, expected, told
):
    monkeypatch.setattr(fastest, "read_speed", lambda: gigabytes * 1e9)
    assert fastest_dtype(large, CPU, LIBRARY, FRAME_RATE) == expected
    assert len(lines) == 1 and told in lines[0]


def test_a_tenth_is_to_spare(large, monkeypatch):
    steps = fastest.MOST_WORK - fastest.CODEC_SECONDS
    border = FRAME_RATE * bytes_per_frame(large) / fastest.MEMORY_SHARE / steps
    for speed, expected in ((1.01 * border, "int8"), (0.99 * border, "int4")):
        monkeypatch.setattr(fastest, "read_speed", lambda speed=speed: speed)
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


def test_a_frame_reads_the_fast_stack_once_a_codebook(large):
    one = bytes_per_frame(built(replace(LARGE, num_codebooks=1)))
    fast = sum(
        x.numel() for part in (large.fast_layers, large.fast_output) for x in part.parameters()
    )
    assert bytes_per_frame(large) == one + 7 * fast
    slow = sum(x.numel() for x in large.layers.parameters()) + large.embed_tokens.weight.numel()
    assert one == slow + fast


def test_the_speed_of_memory_is_the_sum_of_what_all_threads_read(monkeypatch, set_threads):
    set_threads(2)
    seconds = threading.local()

    def thread_time() -> float:  # each thread reads its part in 2 s
        seconds.now = getattr(seconds, "now", -2) + 2
        return seconds.now

    monkeypatch.setattr(fastest, "thread_time", thread_time)
    assert read_speed() == pytest.approx(fastest.MEASURED_BYTES / 2)


def test_a_thread_that_does_not_come_is_not_waited_for(monkeypatch, set_threads):
    set_threads(2)
    monkeypatch.setattr(fastest, "ThreadPoolExecutor", lambda number: ThreadPoolExecutor(1))
    monkeypatch.setattr(fastest, "START_SECONDS", 0.05)
    measured: list[float] = []
    work = threading.Thread(target=lambda: measured.append(read_speed()), daemon=True)
    work.start()
    work.join(60)
    assert measured and measured[0] > 0
