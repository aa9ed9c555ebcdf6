"""Chooses the next token of every row of a batch, each by its own request.

Rules: what a row draws depends on its own logits, seed and position alone, never on its neighbours, so
that the same seed gives the same text alone and in any batch; penalties count what the answer has
produced (repetition_penalty the prompt as well), as OpenAI's do; ids that the tokenizer can't read are
never chosen; log-probabilities are the model's own, before penalties, bias and temperature. Nothing
waits for the model but a grammar, which must know the token before. A fault of one row is kept in that
row. Imported on the model thread (it imports MLX).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.engine import ChatJob, Sampling

_MASK = 2**64 - 1


class Chances(NamedTuple):
    """Log-probabilities at one place: of the token that was drawn, and the likeliest, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class Chooser:
    """How one answer is drawn, and what it has drawn. *matcher*: ``workers.vlm.grammar.Matcher``."""

    sampling: Sampling
    prompt: Sequence[int] = ()
    bias: tuple[tuple[int, float], ...] = ()
    matcher: Any = None
    logprobs: bool = False
    top: int = 0
    position: int = 0
    last: Any = None  # the token drawn last, perhaps not computed yet
    fault: Exception | None = None
    chances: deque[tuple[Any, Any, Any]] = field(default_factory=deque)  # of the tokens not yet told
    _counts: Any = None  # of each id in the answer so far
    _in_prompt: Any = None
    _bias: Any = None

    @property
    def adjusts(self) -> bool:
        """Are the logits changed before one is drawn?"""
        return bool(self._penalises or self.bias or self.matcher is not None)

    @property
    def _penalises(self) -> bool:
        own = self.sampling
        return bool(own.repetition_penalty != 1.0 or own.presence_penalty or own.frequency_penalty)

    @property
    def finished(self) -> bool:
        """Is the answer whole by its grammar?"""
        return self.matcher is not None and bool(self.matcher.finished)

    def adjusted(self, logits: Any) -> Any:
        """*logits* (V,) with penalties, bias and grammar."""
        size = logits.shape[-1]
        if self._penalises:
            logits = self._penalised(logits)
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

    def _penalised(self, logits: Any) -> Any:
        size = logits.shape[-1]
        own = self.sampling
        if self._counts is None:
            self._counts = mx.zeros((size,))
            seen = [token for token in set(self.prompt) if 0 <= token < size]
            self._in_prompt = mx.zeros((size,))
            if seen:
                self._in_prompt = self._in_prompt.at[mx.array(seen)].add(1.0)
        elif self.last is not None:
            self._counts = self._counts.at[self.last].add(1.0)
        produced = self._counts > 0
        if own.repetition_penalty != 1.0:
            penalty = own.repetition_penalty
            penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(produced | (self._in_prompt > 0), penalised, logits)
        return logits - own.presence_penalty * produced - own.frequency_penalty * self._counts

    def told(self) -> Chances | None:
        """The chances of the oldest token that was not told yet; None when they are not asked for."""
        if not self.chances:
            return None
        logprob, ids, values = self.chances.popleft()
        top = () if ids is None else tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Chances(float(logprob.item()), top)


def chooser_for(job: ChatJob, index: int, prompt: Sequence[int], matcher: Any = None) -> Chooser:
    """How answer *index* of *job* is drawn, after *prompt*."""
    own = job.sampling
    seeded = Sampling(
        own.temperature,
        own.top_p,
        own.top_k,
        own.min_p,
        own.repetition_penalty,
        own.presence_penalty,
        own.frequency_penalty,
        own.seed + index,
    )
    return Chooser(seeded, prompt, job.logit_bias, matcher, job.logprobs, job.top_logprobs)


class RowSampler:
    """The sampler of a whole batch: row *i* of the logits is drawn by ``rows[i]``.

    The owner of the batch sets ``rows``, and ``logits`` (B, V) as the model gave them, before mlx-vlm
    asks for tokens.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self.rows: Sequence[Chooser] = ()
        self.logits: Any = None

    def __call__(self, logprobs: mx.array) -> mx.array:
        """The next token of each row, int32 (B,). *logprobs* gives the number of rows only."""
        rows, logits = self.rows, self.logits
        if not len(rows) == logits.shape[0] == logprobs.shape[0]:
            raise RuntimeError(f"{len(rows)} requests for {logits.shape[0]} rows")
        # float32: a draw from bfloat16 would see whole groups of tokens as equally likely.
        logits = logits[:, : self._vocabulary].astype(mx.float32)
        adjusted = self._adjusted(logits)
        sampled = [row.sampling.temperature > 0 for row in rows]
        drawn = self._draw(adjusted) if any(sampled) else adjusted
        tokens = mx.argmax(drawn, axis=-1).astype(mx.int32)
        self._note(logits, tokens)
        return tokens

    def _adjusted(self, logits: mx.array) -> mx.array:
        if not any(row.adjusts for row in self.rows):
            return logits
        if any(row.matcher is not None for row in self.rows):
            mx.async_eval(logits)  # type: ignore[no-untyped-call]  # the model works while the grammars are asked
        picked = []
        for row, own in zip(self.rows, logits, strict=True):
            try:
                picked.append(row.adjusted(own) if row.adjusts and row.fault is None else own)
            except Exception as exc:
                row.fault = exc
                picked.append(own)
        return mx.stack(picked)

    def _draw(self, logits: mx.array) -> mx.array:
        """Values whose largest is the token drawn; a greedy row's are its logits."""
        rows = self.rows
        warm = [row.sampling.temperature for row in rows]
        scaled = logits / mx.array([t or 1.0 for t in warm])[:, None]
        filtering = [i for i, row in enumerate(rows) if warm[i] and filters(row.sampling)]
        if filtering:
            at = mx.array(filtering)
            scaled[at] = filtered(scaled[at], [rows[i].sampling for i in filtering])
        keys = mx.array([key_of(row.sampling.seed, row.position) for row in rows], dtype=mx.uint32)
        size = logits.shape[-1]
        noise = mx.vmap(lambda key: mx.random.gumbel((size,), key=key))(keys)
        return mx.where(mx.array([t > 0 for t in warm])[:, None], scaled + noise, scaled)

    def _note(self, logits: mx.array, tokens: mx.array) -> None:
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
                chances = (logprobs[tokens[i]], ids, values)
                row.chances.append(chances)
                pending += [value for value in chances if value is not None]
        if pending:
            mx.async_eval(pending)  # type: ignore[no-untyped-call]


def filters(sampling: Sampling) -> bool:
    """Are some tokens never drawn?"""
    return sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0


def filtered(scaled: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """*scaled* logits (B, V) with -inf for what may not be drawn; the best of a row always may."""

    def column(values: list[float]) -> mx.array:
        return mx.array(values, dtype=mx.float32)[:, None]

    size = scaled.shape[-1]
    order = mx.argsort(-scaled, axis=-1)
    best_first = mx.take_along_axis(scaled, order, axis=-1)
    probabilities = mx.softmax(best_first, axis=-1)
    rank = mx.arange(size)[None]
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    # Rounding may leave ``before`` short of 1 or beyond it: 2 is above either.
    allowed = before < column([own.top_p if own.top_p < 1 else 2.0 for own in samplings])
    allowed &= rank < column([float(own.top_k or size) for own in samplings])
    allowed &= probabilities >= column([own.min_p for own in samplings]) * probabilities[:, :1]
    allowed |= rank == 0
    kept = mx.where(allowed, best_first, -mx.inf)
    return mx.put_along_axis(mx.full(scaled.shape, -mx.inf), order, kept, axis=-1)


def key_of(seed: int, position: int) -> tuple[int, int]:
    """The random key of a draw: two 32-bit numbers."""
    number = mixed(seed, position)
    return number >> 32, number & 0xFFFFFFFF


def mixed(seed: int, position: int) -> int:
    """A 64-bit number of *seed* and *position*, such that neighbours have nothing in common."""
    x = ((seed & _MASK) * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
