"""The engine in C: what it reads and draws, whatever it is asked for at once."""

from ctypes import CDLL
from dataclasses import replace

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for
from small_quantised import (
    CONFIG,
    LARGEST_ERRORS,
    SEMANTIC_ID,
    plain_model,
    quantised,
    speech_grid,
)

from models.transformer import KVCache
from models.westlake.dual_ar import DualARTransformer
from models.westlake.dual_ar.engines import EagerEngine
from models.westlake.dual_ar.sampling import candidates, penalise

BORDER = 0.1  # of the line, by which C's shares and PyTorch's may differ


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return plain_model()


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    return speech_grid()


@pytest.fixture(params=INSTRUCTION_SETS)
def native(request) -> CDLL:
    return library_for(request.param)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 7)])
def test_columns_are_embedded_as_by_pytorch_to_the_bit(shape, is_tied, native):
    engine = quantised(plain_model(replace(CONFIG, tie_word_embeddings=is_tied)), "int4", native)
    generator = torch.Generator().manual_seed(2)
    num_rows, length = shape
    text = torch.randint(CONFIG.vocab_size, (num_rows, 1, length), generator=generator)
    text[::2] = SEMANTIC_ID
    codes = torch.randint(CONFIG.codebook_size, (num_rows, 8, length), generator=generator)
    grid = torch.cat([text, codes], dim=1)
    assert torch.equal(engine._embed(grid), engine.model.embed(grid))
    columns = grid.transpose(1, 2).contiguous().transpose(1, 2)  # in another order in memory
    assert torch.equal(engine._embed(columns), engine.model.embed(grid))


@pytest.mark.parametrize("row, id", [(0, CONFIG.vocab_size), (0, -1), (8, 1001), (1, -1)])
def test_what_is_no_token_or_code_is_not_read(row, id, model, native):
    engine, cache = quantised(model, "int8", native), model.new_cache(8)
    grid = torch.full((1, 9, 2), 3)
    grid[0, row, 1] = id
    with pytest.raises(IndexError, match="no token or code"):
        engine.read(grid, [cache])
    assert cache.length == 0


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_what_was_read_is_the_same_to_the_bit_however_it_is_read(model, grid, dtype, native):
    """At once or one by one, beside others or alone: so no replica's end changes a reply."""
    check_that_it_reads_alike(quantised(model, dtype, native), grid, (30,), (11, 1, 18), (1,) * 30)


def test_threads_read_alike(model, grid, native, set_threads):
    """A position needs those before it, which another thread may have."""
    set_threads(3)
    check_that_it_reads_alike(quantised(model, "int8", native), grid, (30,), (11, 1, 18))


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
@pytest.mark.parametrize("heads", [(2, 2, 32), (7, 1, 64), (12, 2, 16), (4, 1, 128)])
def test_heads_and_hidden_numbers_of_all_sizes(heads, dtype, native, set_threads):
    """Heads that share keys with none, a few or many others; hidden numbers that threads share."""
    n_head, n_local_heads, head_dim = heads
    config = replace(
        CONFIG,
        n_head=n_head,
        n_local_heads=n_local_heads,
        head_dim=head_dim,
        dim=n_head * head_dim,
        intermediate_size=256,
        intermediate_size_fast=256,
        n_local_heads_fast=n_head,
    )
    model, grid = plain_model(config), speech_grid()
    other = quantised(model, dtype, native)
    expected = quantised(model, dtype, None).model.forward_hidden(grid).float()
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(other.read(grid, [other.model.new_cache(30) for _ in grid]))
        assert torch.equal(found[-1], found[0])
        cache = other.model.new_cache(30)
        other.read(grid[:1, :, :29], [cache])
        assert torch.equal(other.read(grid[:1, :, 29:], [cache]), found[0][:1, 29:])
    assert (found[0].float() - expected).norm() / expected.norm() < 0.05


def check_that_it_reads_alike(engine: EagerEngine, grid: torch.Tensor, *splits: tuple) -> None:
    caches = [engine.model.new_cache(30) for _ in range(3)]
    together = engine.read(grid[[0, 1, 0]], caches)  # more positions than one call of the C file
    for pieces in splits:
        cache = engine.model.new_cache(30)
        alone = [engine.read(piece, [cache]) for piece in grid[:1].split(pieces, 2)]
        assert torch.equal(torch.cat(alone, 1), together[:1])
        assert torch.equal(together[2], together[0])
        for found, expected in zip(held_by(cache), held_by(caches[0]), strict=True):
            assert torch.equal(found, expected)


def held_by(cache: KVCache) -> list[torch.Tensor]:
    """Each layer's keys and values."""
    return [cache._layers[layer][:, :, : cache.length] for layer in range(CONFIG.n_layer)]


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
@pytest.mark.parametrize("num_rows", [1, 3, 17])
def test_the_codes_of_a_frame_are_drawn_as_by_pytorch(model, dtype, num_rows, native):
    engine = quantised(model, dtype, native)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(num_rows, CONFIG.dim, generator=generator).bfloat16()
    points = torch.rand(num_rows, 8, generator=generator, dtype=torch.float64)
    settings = torch.tensor([[0.2 + 0.05 * row, 0.9, 1.0] for row in range(num_rows)])
    seen = torch.zeros(num_rows, 8, 16, dtype=torch.long)
    for penalty in (1.0, 1.9):
        settings[:, 2] = penalty
        codes = engine.draw_codes(hidden, seen, settings, points)
        logits = engine.model.forward_fast(hidden, codes[:, :-1]).float().flatten(0, 1)
        each = settings.repeat_interleave(8, dim=0)
        penalised = penalise(logits, seen.flatten(0, 1), each[:, 2:])
        ids, probs = candidates(penalised, each[:, :1], each[:, 1:2])
        shares = torch.zeros_like(logits).scatter(1, ids, probs).double()
        drawn, points_ = codes.flatten()[:, None], points.flatten()[:, None]
        end = shares.cumsum(1).gather(1, drawn)
        begin = end - shares.gather(1, drawn)
        # Each point lies in the share of its code, whose borders are moved by rounding.
        assert ((points_ > begin - BORDER) & (points_ < end + BORDER)).all()
        assert (codes == seen[..., 3]).float().mean() < 0.3  # those are less likely now
        seen[..., 3] = codes


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_texts_follow_the_logits_of_the_head(num_rows, is_tied, native):
    engine = quantised(plain_model(replace(CONFIG, tie_word_embeddings=is_tied)), "int8", native)
    generator = torch.Generator().manual_seed(3)
    settings = torch.tensor([[0.7, 0.7, 1.2]]).expand(num_rows, -1).contiguous()
    leanings: list[torch.Tensor | None] = [None] * num_rows
    leanings[-1] = torch.randn(CONFIG.vocab_size, generator=generator)
    settled = [False] * num_rows
    for _ in range(20):
        hidden = torch.randn(num_rows, CONFIG.dim, generator=generator).bfloat16()
        window = torch.randint(CONFIG.vocab_size, (num_rows, 16), generator=generator)
        points = torch.rand(num_rows, generator=generator, dtype=torch.float64)
        found = engine.find_texts(hidden, leanings, settled, window, settings, points)
        logits = engine.model.text_logits(hidden)  # after a norm that may round otherwise
        logits[-1] += leanings[-1]
        penalised = penalise(logits, window, settings[:, 2:])
        ids, probs = candidates(penalised, settings[:, :1], settings[:, 1:2])
        shares = torch.zeros_like(logits).scatter(1, ids, probs).double()
        drawn = torch.tensor(found)[:, None]
        end = shares.cumsum(1).gather(1, drawn)
        begin = end - shares.gather(1, drawn)
        assert ((points[:, None] > begin - BORDER) & (points[:, None] < end + BORDER)).all()
        settled_too = engine.find_texts(
            hidden, leanings, [True] * num_rows, window, settings, points
        )
        likeliest = logits.gather(1, torch.tensor(settled_too)[:, None])[:, 0]
        torch.testing.assert_close(likeliest, logits.amax(1), rtol=0, atol=0.01)
        mixed = engine.find_texts(hidden, leanings, [True] + settled[1:], window, settings, points)
        assert mixed == settled_too[:1] + found[1:]


@pytest.mark.parametrize("row, value", [(0, torch.nan), (2, torch.inf), (1, -torch.inf)])
def test_texts_of_logits_that_are_not_finite_are_refused(row, value, model, native):
    engine = quantised(model, "int8", native)
    hidden = torch.randn(3, CONFIG.dim, generator=torch.Generator().manual_seed(3)).bfloat16()
    leanings: list[torch.Tensor | None] = [None] * 3
    leanings[row] = torch.zeros(CONFIG.vocab_size).index_fill(0, torch.tensor(5), value)
    window, settings = torch.zeros(3, 16, dtype=torch.long), torch.tensor([[0.7, 0.7, 1.2]] * 3)
    points = torch.full((3,), 0.5, dtype=torch.float64)
    for settled in ([False] * 3, [True] * 3):
        with pytest.raises(FloatingPointError, match="not finite"):
            engine.find_texts(hidden, leanings, settled, window, settings, points)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_codes_remain_codes_where_nothing_is_a_number(model, value, native):
    engine = quantised(model, "int8", native)
    hidden = torch.full((3, CONFIG.dim), value, dtype=torch.bfloat16)
    settings = torch.tensor([[0.7, 0.7, 1.2]]).expand(3, -1).contiguous()
    points = torch.full((3, 8), 0.5, dtype=torch.float64)
    codes = engine.draw_codes(hidden, torch.zeros(3, 8, 16, dtype=torch.long), settings, points)
    assert ((codes >= 0) & (codes < CONFIG.codebook_size)).all()
