"""How much of a prompt is prefilled between two tokens of the other sequences. Pure.

Rules: alone, a prompt is prefilled in chunks of the largest size. While other sequences decode, a chunk
takes about as long as ``STALL_TOKENS`` of their tokens.
"""

from __future__ import annotations

STALL_TOKENS = 4
MIN_CHUNK = 32  # tokens; smaller chunks cost far more per token than they save
_FIRST_CHUNK = 128  # tokens, before anything was measured
_FIRST_STALL_S = 0.1  # before anything was measured
_WEIGHT = 0.3  # of the newest measurement


class PrefillBudget:
    """*max_chunk*: the largest chunk, in tokens."""

    def __init__(self, max_chunk: int) -> None:
        self._max_chunk = max_chunk
        self._decode_s: float | None = None  # one token of all sequences
        self._token_s: float | None = None  # one token of a prompt

    def decoded(self, seconds: float) -> None:
        """Record that one token of every sequence took *seconds*, without prefill work."""
        self._decode_s = _average(self._decode_s, seconds)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Record that *tokens* of a prompt took *seconds*."""
        if tokens >= MIN_CHUNK:
            self._token_s = _average(self._token_s, seconds / tokens)

    @property
    def stall_s(self) -> float:
        """How long decoding sequences may wait for prefill work, in seconds."""
        return STALL_TOKENS * self._decode_s if self._decode_s else _FIRST_STALL_S

    def chunk(self, *, alone: bool) -> int:
        """Tokens in the next chunk: a power of two times ``MIN_CHUNK``, or the largest size."""
        if alone:
            return self._max_chunk
        if not self._decode_s or not self._token_s:
            return min(_FIRST_CHUNK, self._max_chunk)
        size, fitting = MIN_CHUNK, self.stall_s / self._token_s
        if fitting >= self._max_chunk:
            return self._max_chunk
        while 2 * size <= fitting:
            size *= 2
        return min(size, self._max_chunk)


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
