"""A frame's codes as one CUDA graph: launched one by one, their small kernels take longer than the
work that they do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .generation import draw_codes
from .model import DualARTransformer

WARM_UP_RUNS = 2  # in which libraries allocate what a graph can't


class Graphed:
    """A function of tensors, recorded once for every number of rows and replayed from then on.

    Args:
        function: of tensors with equal numbers of rows, B; never waits for the device.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        num_rows = len(inputs[0])
        if num_rows not in self.recorded:
            self.recorded[num_rows] = self._record(inputs)
        graph, places, result = self.recorded[num_rows]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result.clone()

    def _record(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        places = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                self.function(*places)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may decode
            result = self.function(*places)
        return graph, places, result


def use_graphs(model: DualARTransformer) -> None:
    """Let a model that is on a GPU make a frame's codes in one go."""
    model.make_codes = Graphed(partial(draw_codes, model))
