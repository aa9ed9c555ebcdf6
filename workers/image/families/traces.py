"""Compiled steps of a transformer that are kept for the next picture of the same shape.

mflux compiles its step anew for each picture; one that is kept saves that. A trace is of the shapes
that it met (size, length of the prompt, pictures of an edit), so each has its own here, and a few are
kept: they would add up with every new size or length of a prompt. Belongs to the model thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

KEPT = 4


class Traces:
    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self.shapes: Hashable = None  # of the picture that is drawn next

    def __len__(self) -> int:
        return len(self._kept)

    def step(self, make: Callable[[], Any]) -> Any:
        """The compiled step for ``shapes``, *make*'s if there is none yet."""
        if self.shapes not in self._kept:
            self._kept[self.shapes] = make()
        self._kept.move_to_end(self.shapes)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[self.shapes]
