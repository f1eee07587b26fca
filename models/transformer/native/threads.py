"""Threads for the C file's functions, shared by those that run at the same time."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL
from functools import cache
from threading import Lock, get_ident

import torch

_lock = Lock()
_running: Counter[int] = Counter()  # of each Python thread, how deep it is in work
_beside: set[int] = set()  # those of them that work beside the others
_own = threading.local()


def work_beside() -> None:
    """From now on this Python thread's work takes a single thread, and the others' one less."""
    _own.is_beside = True


@contextmanager
def share_of_threads() -> Iterator[int]:
    """PyTorch's threads for some work, or fewer where other Python threads are at work: threads
    that are more than cores wait for each other.

    Work within it has what is then left. Of several who do not work beside, one at a time has more
    than its own thread in C (see `team.h`).
    """
    own, is_beside = get_ident(), getattr(_own, "is_beside", False)
    with _lock:
        _running[own] += 1
        if is_beside:
            _beside.add(own)
        left = num_threads() - len(_beside)
        share = 1 if is_beside else max(1, left // (len(_running) - len(_beside)))
    try:
        yield share
    finally:
        with _lock:
            _running[own] -= 1
            if not _running[own]:
                del _running[own]
                _beside.discard(own)


@contextmanager
def without_torch_threads() -> Iterator[None]:
    """For calls in C one after another, with work of PyTorch's in between: it does that alone, as
    its threads look out for more for milliseconds, on the cores that those in C need."""
    set_num_threads = _openmp_setter()
    if getattr(_own, "num_threads", None) or set_num_threads is None:
        yield
        return
    _own.num_threads = torch.get_num_threads()
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(_own.num_threads)
        _own.num_threads = None


@cache
def _openmp_setter() -> Callable[[int], None] | None:
    """OpenMP's function that sets this Python thread's number alone; PyTorch's also sets what new
    ones begin with. None where PyTorch does not show it."""
    with suppress(AttributeError, OSError, TypeError):
        return CDLL(None).omp_set_num_threads
    return None


def num_threads() -> int:
    """Threads for a call in C: PyTorch's, also while it does without them."""
    return getattr(_own, "num_threads", None) or torch.get_num_threads()


def _begin_anew() -> None:
    """A forked process has none of the other threads."""
    global _lock
    _lock = Lock()
    _running.clear()
    _beside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
