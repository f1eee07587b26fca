"""Threads for the C file's functions, shared by those that run at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL
from functools import cache
from threading import Condition, get_ident

import torch

_changed = Condition()
_working: set[int] = set()  # Python threads that share the threads
_beside: set[int] = set()  # those of them that work beside the others
_taken: dict[int, int] = {}  # by those in C: how many threads each has
_own = threading.local()


def work_beside() -> None:
    """From now on this Python thread's calls in C have a single thread, and the others one less."""
    _own.is_beside = True


@contextmanager
def at_work() -> Iterator[None]:
    """Within it this Python thread has its share between its calls in C as well."""
    own = get_ident()
    with _changed:
        is_outermost = own not in _working
        _working.add(own)
        if getattr(_own, "is_beside", False):
            _beside.add(own)
    try:
        yield
    finally:
        if is_outermost:
            with _changed:
                _working.discard(own)
                _beside.discard(own)


@contextmanager
def share_of_threads() -> Iterator[int]:
    """PyTorch's threads for a call in C, or fewer where other Python threads are at work.

    Threads that do a task together often wait for each other; were they more than cores, they would
    lose a turn of the scheduler each time. So whoever comes while all cores are taken, and not by
    single threads, waits for a call to end: the next ones then have fewer. Of several who do not
    work beside, one at a time has more than its own thread in C (see `team.h`).
    """
    own = get_ident()
    with at_work():
        with _changed:
            _changed.wait_for(lambda: _num_free() > 0 or max(_taken.values()) == 1)
            share = 1
            if own not in _beside:
                left = num_threads() - len(_beside)
                share = max(1, min(left // (len(_working) - len(_beside)), _num_free()))
            _taken[own] = share
        try:
            yield share
        finally:
            with _changed:
                del _taken[own]
                _changed.notify_all()


def _num_free() -> int:
    return num_threads() - sum(_taken.values())


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
    global _changed
    _changed = Condition()
    for known in (_working, _beside, _taken):
        known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
