"""Threads for the C file's functions, shared by those that run at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

import torch

_lock = Lock()
_running: Counter[int] = Counter()  # of each Python thread, how deep it is in work


@contextmanager
def share_of_threads() -> Iterator[int]:
    """PyTorch's threads for some work, or a share of them where other Python threads are at work:
    threads that are more than cores wait for each other.

    Work within it has the share that is then left.
    """
    own = get_ident()
    with _lock:
        _running[own] += 1
        share = max(1, torch.get_num_threads() // len(_running))
    try:
        yield share
    finally:
        with _lock:
            _running[own] -= 1
            if not _running[own]:
                del _running[own]
