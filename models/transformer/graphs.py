"""CUDA graphs: small kernels, launched one by one, take longer than their work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SWITCH = "WESTLAKE_CUDA_GRAPHS"  # an environment variable; 0 leaves them out
WARM_UP_RUNS = 2  # in which libraries allocate what a graph can't

Result = Any  # a tensor or a tuple of them


def are_wanted(device: torch.device) -> bool:
    """Whether graphs may be recorded: on a GPU, where they aren't switched off."""
    return device.type == "cuda" and os.environ.get(SWITCH) != "0"


class Graphed:
    """A function of tensors, recorded once for every number of rows and replayed from then on.

    Its result holds until the next call.

    Args:
        function: of tensors, the first of which has the rows; never waits for the device.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], Result]] = {}

    def __call__(self, *inputs: Tensor) -> Result:
        num_rows = len(inputs[0])
        if num_rows not in self._recorded:
            self._recorded[num_rows] = self._record(inputs)
        graph, places, result = self._recorded[num_rows]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result

    def _record(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Result]:
        with torch.inference_mode(False):  # else they couldn't be written outside of that mode
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
