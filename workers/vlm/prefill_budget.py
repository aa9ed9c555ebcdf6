"""How much of a prompt is read, and seen, between two tokens of the others. Pure.

Rules: alone, a prompt is read in pieces of the largest size; beside answers that are being drawn, in
pieces that take about as long as ``STALL_TOKENS`` of their tokens.
"""

from __future__ import annotations

STALL_TOKENS = 4
LEAST = 32  # tokens; smaller pieces cost far more than they spare
_FIRST = 128  # tokens, as long as nothing was measured
_STALL_S = 0.1  # as long as nothing was measured
_WEIGHT = 0.3  # of the newest measurement


class Pace:
    def __init__(self, most: int) -> None:
        self._most = most
        self._step_s: float | None = None  # of one token of all answers
        self._token_s: float | None = None  # of one token of a prompt

    def decoded(self, seconds: float) -> None:
        """A token of each answer took *seconds*, with nothing beside it."""
        self._step_s = _mixed(self._step_s, seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """*tokens* of a prompt took *seconds*."""
        if tokens >= LEAST:
            self._token_s = _mixed(self._token_s, seconds / tokens)

    @property
    def stall_s(self) -> float:
        """Seconds for which the others may have to wait."""
        return STALL_TOKENS * self._step_s if self._step_s else _STALL_S

    def tokens(self, *, others: bool) -> int:
        """The size of the next piece; a power of two times ``LEAST``, or the largest."""
        if not others:
            return self._most
        if not self._step_s or not self._token_s:
            return min(_FIRST, self._most)
        size, fitting = LEAST, self.stall_s / self._token_s
        if fitting >= self._most:
            return self._most
        while 2 * size <= fitting:
            size *= 2
        return min(size, self._most)


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
