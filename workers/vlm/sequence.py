"""One answer while it is drawn: its tokens become text, log-probabilities and an end.

Rules: no MLX; what is told depends on the tokens alone, however they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from workers.engine import (
    Answered,
    ChatEvent,
    ChatJob,
    Delta,
    FinishReason,
    TokenChance,
    TokenLogprob,
)
from workers.vlm.detokenizer import Detokenizer, StopFinder
from workers.vlm.sampler import Chooser


class Words(Protocol):
    """What is needed of a tokenizer."""

    def text(self, tokens: list[int]) -> str: ...

    def data(self, token: int) -> bytes: ...

    def ends(self, token: int) -> bool:
        """Does *token* end an answer?"""


@dataclass(eq=False)
class _Told:
    """A token whose log-probability waits for its text: that begins at character *start*."""

    entry: TokenLogprob
    start: int


class AnswerRow:
    """Answer *index* of *job*, of *max_tokens* at most; its events go to *emit*."""

    def __init__(
        self,
        job: ChatJob,
        index: int,
        chooser: Chooser,
        words: Words,
        max_tokens: int,
        emit: Callable[[ChatEvent], None],
    ) -> None:
        self.index = index
        self.chooser = chooser
        self.tokens: list[int] = []
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._words = words
        self._max_tokens = max_tokens
        self._emit = emit
        self._logprobs = job.logprobs
        self._text = Detokenizer(words.text)
        self._stops = StopFinder(job.stops)
        self._found = 0  # characters, those of a stop string among them
        self._shown = 0
        self._waiting: list[_Told] = []

    def take(self, token: int) -> bool:
        """*token* was drawn. Is the answer whole? Raises what went wrong as it was drawn."""
        if self.chooser.fault is not None:
            raise self.chooser.fault
        self.tokens.append(token)
        chances = self.chooser.told()
        if self._words.ends(token):
            return self._end("stop")
        if self._logprobs and chances is not None:
            top = tuple(
                TokenChance(other, self._words.data(other), value) for other, value in chances.top
            )
            entry = TokenLogprob(token, self._words.data(token), chances.logprob, top)
            self._waiting.append(_Told(entry, self._found))
        self._show(self._text.push(token))
        if self._stops.stopped or self.chooser.finished:
            return self._end("stop")
        if len(self.tokens) >= self._max_tokens:
            return self._end("length")
        return False

    def _show(self, piece: str) -> None:
        self._found += len(piece)
        self._tell(self._stops.push(piece))

    def _tell(self, text: str) -> None:
        self._shown += len(text)
        count = 0
        while count < len(self._waiting) and self._waiting[count].start < self._shown:
            count += 1
        told, self._waiting = self._waiting[:count], self._waiting[count:]
        if text or told:
            self._emit(Delta(self.index, text, tuple(one.entry for one in told)))

    def _end(self, reason: FinishReason) -> bool:
        self._show(self._text.finish())
        # A stop string that is found in the last half character ends the answer, too.
        self.finish_reason = "stop" if self._stops.stopped else reason
        rest = self._stops.finish()
        if not self._stops.stopped:
            self._found = self._shown = self._shown + len(rest)
            told, self._waiting = self._waiting, []
            if rest or told:
                self._emit(Delta(self.index, rest, tuple(one.entry for one in told)))
        self._emit(Answered(self.index, self.finish_reason, len(self.tokens), self.cached_tokens))
        return True
