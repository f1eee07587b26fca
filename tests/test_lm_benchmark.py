"""The benchmark of the language model: what its limit counts."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.lm import bytes_per_step
from models.transformer.native import load_library
from models.transformer.native.panels import PANEL
from models.transformer.quantisation import (
    prepare_quantised,
    quantise_weights,
    with_quantised_layers,
)
from models.westlake.dual_ar import DualARConfig, DualARTransformer

SEMANTIC_ID = 5
CONFIG = DualARConfig(
    vocab_size=64,
    n_layer=2,
    n_head=4,
    dim=128,
    intermediate_size=192,
    n_local_heads=2,
    n_fast_layer=1,
    codebook_size=101,
    max_seq_len=64,
)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_frame_reads_weights_and_their_scales(dtype, is_native):
    library = load_library() if is_native else None
    if is_native and library is None:
        pytest.skip("native.c can't be compiled here")
    model = DualARTransformer(CONFIG, SEMANTIC_ID)
    weights = quantise_weights(model.state_dict(), dtype, None)
    with torch.device("meta"):
        few_bits = with_quantised_layers(DualARTransformer(CONFIG, SEMANTIC_ID), dtype)
    few_bits.load_state_dict(weights, strict=True, assign=True)
    prepare_quantised(few_bits, library)

    def in_memory(key: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.bfloat16() if key.endswith("scale") else tensor
        if not is_native or tensor.dim() == 1:
            return tensor
        return tensor.new_empty(-(-len(tensor) // PANEL) * PANEL, *tensor.shape[1:])

    def size(*prefixes: str) -> int:
        stored = (item for item in weights.items() if item[0].startswith(prefixes))
        return sum(in_memory(*item).nbytes for item in stored)

    expected = size("layers.", "lm_head.")
    expected += CONFIG.num_codebooks * size("fast_layers.", "fast_output.")
    assert bytes_per_step(SimpleNamespace(model=few_bits)) == expected
