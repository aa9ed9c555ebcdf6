"""A bounded amount of something that threads share: each takes its part when there is room for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Who asks first gets room first: a large one is not passed for ever by small ones."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._size = size
        self._turn = threading.Lock()  # of the one who is next
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """*amount* of it, at most all, for as long as the block runs."""
        amount = min(amount, self._size)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify()
