"""How often somebody may ask: so many times a minute, on the clock that only goes forward."""

from __future__ import annotations

import time
from collections import OrderedDict

MAX_KEYS = 4096  # that are remembered; whoever was not seen for longest is forgotten


class Rate:
    """So many times a minute for each key, all at once or spread.

    Args:
        per_minute: how often.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # and since when

    def wait(self, key: str) -> float:
        """The seconds after which a key may ask again; 0 if it may now."""
        return max(0.0, (1 - self._room(key)) * 60 / self.per_minute)

    def take(self, key: str) -> float:
        """As `wait`; where it is 0, this is one time."""
        seconds = self.wait(key)
        if not seconds:
            self._left[key] = self._room(key) - 1, time.monotonic()
            self._left.move_to_end(key)
            if len(self._left) > MAX_KEYS:
                self._left.popitem(last=False)
        return seconds

    def _room(self, key: str) -> float:
        now = time.monotonic()
        left, since = self._left.get(key, (self.per_minute, now))
        return min(self.per_minute, left + (now - since) * self.per_minute / 60)
