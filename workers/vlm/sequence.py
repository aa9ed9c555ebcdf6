"""One completion in progress, from admission to end.

A ``Sequence`` is the only record of a completion. It owns its sampling state, its output text and,
until it decodes, what its prefill needs. The scheduler orders sequences, and the runner computes them.

Rules: no MLX is imported here. The events depend on the sampled tokens only, however they are batched.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from workers.engine import (
    ChatEvent,
    ChatJob,
    Delta,
    Finished,
    FinishReason,
    Sink,
    TokenLogprob,
    TopToken,
)
from workers.vlm.detokenizer import Detokenizer, StopMatcher
from workers.vlm.prompt import Prompt, PromptImage

if TYPE_CHECKING:  # imports MLX
    from workers.vlm.sampler import SamplerState


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that is ready for the model thread. *matchers*: one per completion, if it has a grammar."""

    job: ChatJob
    prompt: Prompt
    matchers: tuple[Any, ...] = ()


class TokenizerView(Protocol):
    """The part of a tokenizer that a sequence uses."""

    def text(self, tokens: list[int]) -> str: ...

    def data(self, token: int) -> bytes: ...

    def ends(self, token: int) -> bool:
        """Whether *token* ends a completion."""


class Status(Enum):
    WAITING = "waiting"
    PREFILLING = "prefilling"  # started: its images are encoded, its prompt is prefilled
    DECODING = "decoding"


@dataclass(slots=True)
class PrefillState:
    """The state of a sequence until its prompt is prefilled.

    *images*: still to be encoded. *stages*: the lazy stages of the first of them that are not
    evaluated. *features*: of the encoded images, by key. *prefix*: cached keys and values
    (``kv_cache.Layers``). *min_chunk*: tokens of the prompt that the first chunk must hold.
    """

    images: deque[PromptImage]
    prefix: Any = None
    min_chunk: int = 0
    stages: deque[Any] | None = None
    features: dict[int, Any] = field(default_factory=dict)


class Sequence:
    """Completion *index* of a job. Sequences of one job share its *sink*."""

    def __init__(
        self,
        id: int,
        prepared: PreparedJob,
        index: int,
        sampler: SamplerState,
        tokenizer: TokenizerView,
        sink: Sink[ChatEvent],
    ) -> None:
        job = prepared.job
        self.id = id
        self.job = job
        self.prompt = prepared.prompt
        self.index = index
        self.sampler = sampler
        self.sink = sink
        self.status = Status.WAITING
        self.prefill: PrefillState | None = None  # while PREFILLING
        self.cached_tokens = 0  # prompt tokens from the prefix cache
        self.computed_tokens = 0  # prompt tokens whose keys and values exist, cached ones included
        self.tokens: list[int] = []
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer.text)
        self._stops = StopMatcher(job.stops)
        self._text_length = 0  # characters, a stop string included
        self._emitted = 0  # characters
        self._held: deque[tuple[int, TokenLogprob]] = deque()  # (where the token's text begins, token)

    def __repr__(self) -> str:
        return f"<Sequence {self.id}: {self.status.value}, {len(self.tokens)} tokens>"

    def append(self, token: int) -> bool:
        """Take the sampled *token* and emit its text. Returns whether the sequence is finished.

        Raises the exception that sampling this token caused.
        """
        if self.sampler.fault is not None:
            raise self.sampler.fault
        self.tokens.append(token)
        logprobs = self.sampler.pop_logprobs()
        if self._tokenizer.ends(token):
            return self._finish("stop")
        if logprobs is not None:
            data = self._tokenizer.data
            top = tuple(TopToken(other, data(other), value) for other, value in logprobs.top)
            entry = TokenLogprob(token, data(token), logprobs.logprob, top)
            self._held.append((self._text_length, entry))
        self._take_text(self._detokenizer.push(token))
        if self._stops.stopped or self.sampler.finished:
            return self._finish("stop")
        if len(self.tokens) >= self.job.max_tokens:
            return self._finish("length")
        return False

    def _take_text(self, text: str) -> None:
        self._text_length += len(text)
        self._emit(self._stops.push(text))

    def _emit(self, text: str) -> None:
        """Emit *text* and the tokens whose text has begun."""
        self._emitted += len(text)
        logprobs = []
        while self._held and self._held[0][0] < self._emitted:
            logprobs.append(self._held.popleft()[1])
        if text or logprobs:
            self.sink.put(Delta(self.index, text, tuple(logprobs)))

    def _finish(self, reason: FinishReason) -> bool:
        self._take_text(self._detokenizer.finish())
        if self._stops.stopped:  # perhaps only now, in the last half character
            reason = "stop"
        else:
            text = self._stops.finish()
            logprobs = tuple(entry for _, entry in self._held)
            if text or logprobs:
                self.sink.put(Delta(self.index, text, logprobs))
        self.sink.put(Finished(self.index, reason, len(self.tokens), self.cached_tokens))
        return True
