"""Samples the next token of every sequence in a batch, each by its own parameters.

Rules:
* A sequence's token depends on its own logits, seed and position only, so the same seed gives the same
  text alone and in any batch.
* Penalties count the completion's tokens (repetition_penalty the prompt's too), as OpenAI's do.
* Ids that the tokenizer cannot decode are never sampled.
* Log-probabilities are the model's own, before penalties, bias and temperature.
* Nothing waits for the model, except a grammar, which must know the previous token.
* A fault of one sequence is stored in its state and does not affect the others.

Imports MLX, so it is imported on the model thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.engine import ChatJob, Sampling

_MASK = 2**64 - 1


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one position: the sampled token's, and the most likely tokens', best
    first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class SamplerState:
    """The sampling parameters and state of one sequence. *matcher*: a ``workers.vlm.grammar.Matcher``.

    *position*: tokens sampled so far. The batch samples one token ahead of what it returns.
    """

    sampling: Sampling
    prompt: Sequence[int] = ()
    bias: tuple[tuple[int, float], ...] = ()
    matcher: Any = None
    logprobs: bool = False
    top: int = 0
    position: int = 0
    last: Any = None  # the token sampled last, possibly not computed yet
    fault: Exception | None = None
    pending_logprobs: deque[tuple[Any, Any, Any]] = field(default_factory=deque)
    _counts: Any = None  # of each id in the completion so far
    _in_prompt: Any = None
    _bias: Any = None

    @classmethod
    def of(cls, job: ChatJob, index: int, prompt: Sequence[int], matcher: Any = None) -> SamplerState:
        """The state for completion *index* of *job*, after the ids of *prompt*."""
        sampling = replace(job.sampling, seed=job.sampling.seed + index)
        return cls(sampling, prompt, job.logit_bias, matcher, job.logprobs, job.top_logprobs)

    @property
    def adjusts(self) -> bool:
        """Whether the logits are changed before a token is sampled."""
        return bool(self._penalizes or self.bias or self.matcher is not None)

    @property
    def _penalizes(self) -> bool:
        own = self.sampling
        return bool(own.repetition_penalty != 1.0 or own.presence_penalty or own.frequency_penalty)

    @property
    def finished(self) -> bool:
        """Whether the grammar is complete."""
        return self.matcher is not None and bool(self.matcher.finished)

    def adjusted(self, logits: Any) -> Any:
        """*logits* (V,) with penalties, bias and grammar applied."""
        size = logits.shape[-1]
        if self._penalizes:
            logits = self._penalized(logits)
        if self.bias:
            if self._bias is None:
                known = [(token, value) for token, value in self.bias if 0 <= token < size]
                self._bias = mx.zeros((size,))
                if known:
                    tokens, values = zip(*known, strict=True)
                    self._bias = self._bias.at[mx.array(tokens)].add(mx.array(values))
            logits = logits + self._bias
        if self.matcher is not None:
            if self.last is not None:
                self.matcher.accept(int(self.last.item()))
            if not self.matcher.finished:
                logits = mx.where(mx.array(self.matcher.mask()[:size]), logits, -mx.inf)
        return logits

    def _penalized(self, logits: Any) -> Any:
        size = logits.shape[-1]
        own = self.sampling
        if self._counts is None:
            self._counts = mx.zeros((size,))
            known = [token for token in set(self.prompt) if 0 <= token < size]
            self._in_prompt = mx.zeros((size,))
            if known:
                self._in_prompt = self._in_prompt.at[mx.array(known)].add(1.0)
        elif self.last is not None:
            self._counts = self._counts.at[self.last].add(1.0)
        produced = self._counts > 0
        if own.repetition_penalty != 1.0:
            penalty = own.repetition_penalty
            penalized = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(produced | (self._in_prompt > 0), penalized, logits)
        return logits - own.presence_penalty * produced - own.frequency_penalty * self._counts

    def pop_logprobs(self) -> TokenLogprobs | None:
        """The log-probabilities of the oldest token not popped yet. None if the job asks for none."""
        if not self.pending_logprobs:
            return None
        logprob, ids, values = self.pending_logprobs.popleft()
        top = () if ids is None else tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return TokenLogprobs(float(logprob.item()), top)


class RowSampler:
    """The sampler of a whole batch: ``rows[i]`` samples row *i* of the logits.

    Before mlx-vlm calls it, the batch sets ``rows``, and ``logits`` (B, V) as the model returned them.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self.rows: Sequence[SamplerState] = ()
        self.logits: Any = None

    def __call__(self, logprobs: mx.array) -> mx.array:
        """The next token of each row, int32 (B,). Only the number of rows of *logprobs* is used."""
        rows, logits = self.rows, self.logits
        if not len(rows) == logits.shape[0] == logprobs.shape[0]:
            raise RuntimeError(f"{len(rows)} sequences for {logits.shape[0]} rows")
        # float32: in bfloat16, whole groups of tokens would be equally likely.
        logits = logits[:, : self._vocabulary].astype(mx.float32)
        scores = self._adjusted(logits)
        if any(row.sampling.temperature > 0 for row in rows):
            scores = self._perturbed(scores)
        tokens = mx.argmax(scores, axis=-1).astype(mx.int32)
        self._record(logits, tokens)
        return tokens

    def _adjusted(self, logits: mx.array) -> mx.array:
        if not any(row.adjusts for row in self.rows):
            return logits
        if any(row.matcher is not None for row in self.rows):
            mx.async_eval(logits)  # type: ignore[no-untyped-call]  # overlaps with the grammars
        adjusted = []
        for row, own in zip(self.rows, logits, strict=True):
            try:
                adjusted.append(row.adjusted(own) if row.adjusts and row.fault is None else own)
            except Exception as exc:
                row.fault = exc
                adjusted.append(own)
        return mx.stack(adjusted)

    def _perturbed(self, logits: mx.array) -> mx.array:
        """Scores whose largest is the sampled token (the Gumbel-max trick). Greedy rows are
        unchanged."""
        rows = self.rows
        temperatures = [row.sampling.temperature for row in rows]
        scaled = logits / mx.array([t or 1.0 for t in temperatures])[:, None]
        filtering = [i for i, row in enumerate(rows) if temperatures[i] and filters(row.sampling)]
        if filtering:
            at = mx.array(filtering)
            scaled[at] = filtered(scaled[at], [rows[i].sampling for i in filtering])
        keys = mx.array([random_key(row.sampling.seed, row.position) for row in rows], dtype=mx.uint32)
        size = logits.shape[-1]
        noise = mx.vmap(lambda key: mx.random.gumbel((size,), key=key))(keys)
        return mx.where(mx.array([t > 0 for t in temperatures])[:, None], scaled + noise, scaled)

    def _record(self, logits: mx.array, tokens: mx.array) -> None:
        pending = []
        for i, row in enumerate(self.rows):
            row.position += 1
            if row.adjusts:
                row.last = tokens[i]
            if row.logprobs:
                logprobs = logits[i] - mx.logsumexp(logits[i])
                ids = values = None
                if row.top:
                    ids = mx.argsort(-logprobs)[: row.top]
                    values = logprobs[ids]
                entry = (logprobs[tokens[i]], ids, values)
                row.pending_logprobs.append(entry)
                pending += [value for value in entry if value is not None]
        if pending:
            mx.async_eval(pending)  # type: ignore[no-untyped-call]


def filters(sampling: Sampling) -> bool:
    """Whether some tokens are never sampled."""
    return sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0


def filtered(scaled: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """*scaled* logits (B, V) with -inf for excluded tokens. A row's best token is never excluded."""

    def column(values: list[float]) -> mx.array:
        return mx.array(values, dtype=mx.float32)[:, None]

    size = scaled.shape[-1]
    order = mx.argsort(-scaled, axis=-1)
    best_first = mx.take_along_axis(scaled, order, axis=-1)
    probabilities = mx.softmax(best_first, axis=-1)
    rank = mx.arange(size)[None]
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    # Rounding may leave ``before`` slightly below or above 1; 2 exceeds both.
    allowed = before < column([own.top_p if own.top_p < 1 else 2.0 for own in samplings])
    allowed &= rank < column([float(own.top_k or size) for own in samplings])
    allowed &= probabilities >= column([own.min_p for own in samplings]) * probabilities[:, :1]
    allowed |= rank == 0
    kept = mx.where(allowed, best_first, -mx.inf)
    return mx.put_along_axis(mx.full(scaled.shape, -mx.inf), order, kept, axis=-1)


def random_key(seed: int, position: int) -> tuple[int, int]:
    """The random key of one sample: two 32-bit numbers."""
    number = mixed(seed, position)
    return number >> 32, number & 0xFFFFFFFF


def mixed(seed: int, position: int) -> int:
    """A 64-bit hash of *seed* and *position* (splitmix64): neighbors are unrelated."""
    x = ((seed & _MASK) * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
