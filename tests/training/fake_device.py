"""A device that is made up: it computes on the CPU, but takes no tensors that lie there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "meta"  # a device type that PyTorch knows everywhere and that nothing computes on
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}  # what may go between devices
INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._index_put_impl_.default, aten._unsafe_index.Tensor,
}  # fmt: skip


class Elsewhere(Tensor):
    """A tensor on that device."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=NAME,
            requires_grad=False,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> list:
        return self.held.tolist()

    def new_tensor(self, data) -> Elsewhere:
        return Elsewhere(torch.tensor(data, dtype=self.dtype))

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args: tuple, kwargs: dict):
    flat = list(_tensors((args, kwargs)))
    apart = any(isinstance(x, Elsewhere) for x in flat)
    asked = kwargs.get("device")
    there = torch.device(asked).type == NAME if asked is not None else apart
    if function not in CROSSING:
        _check(function, args, flat)
    if asked is not None:
        kwargs = kwargs | {"device": "cpu"}
    out = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if function in CROSSING and asked is None:
        there = isinstance(args[0], Elsewhere)
    if function.__name__.split(".")[0].endswith("_") and isinstance(args[0], Tensor):
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out) if there else out


def _check(function, args: tuple, flat: list[Tensor]) -> None:
    if function in INDEXING:  # what indexes may lie on the CPU
        flat = list(_tensors((args[:1], args[2:])))
        if not isinstance(args[0], Elsewhere) and any(
            isinstance(x, Elsewhere) for x in _tensors(args[1])
        ):
            raise RuntimeError(f"{function}: a tensor on the CPU can't be indexed from elsewhere")
    stray = [x for x in flat if not isinstance(x, Elsewhere) and x.dim()]
    if stray and any(isinstance(x, Elsewhere) for x in flat):
        shapes = [tuple(x.shape) for x in stray]
        raise RuntimeError(f"{function}: not all tensors on one device, on the CPU {shapes}")


def _held(x):
    return x.held if isinstance(x, Elsewhere) else x


def _tensors(tree):
    return (x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, Tensor))


class Placing(TorchDispatchMode):
    """Makes what is asked for on that device there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def to_cpu(tree):
    """Tensors, also those in modules' states, as they can be saved."""
    return tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, tree)
