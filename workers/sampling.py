"""Chooses the next token of one answer: penalties, filters, temperature, seed.

Rules: a draw depends on the seed and the position alone, so that the same seed gives the same text
whatever else runs, and an answer can later be a row of a batch; penalties count what this answer has
produced (repetition_penalty the prompt as well), as OpenAI's do; ids that the tokenizer can't read are
never chosen. mlx-vlm's own samplers drop min_p together with a seed, and count the last 20 tokens only.
Imported on the model thread (it imports MLX).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.engine import Sampling

_MASK = 2**64 - 1


class Chooser:
    """``adjust`` is a logits processor, the object itself the sampler of mlx-vlm's generate_step."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self._sampling = sampling
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._position = 0
        self._counts: mx.array | None = None  # of each id in the answer so far
        self._in_prompt: mx.array | None = None

    def adjust(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """*logits* (1, V) with penalties; the last of *tokens* is the one chosen before, if any."""
        size = logits.shape[-1]
        if self._vocabulary < size:
            logits = mx.where(mx.arange(size) < self._vocabulary, logits, -mx.inf)
        sampling = self._sampling
        if (
            sampling.repetition_penalty == 1.0
            and not sampling.presence_penalty
            and not sampling.frequency_penalty
        ):
            return logits
        if self._counts is None or self._in_prompt is None:
            self._counts = mx.zeros((size,))
            seen = [token for token in set(self._prompt) if token < size]
            self._in_prompt = mx.zeros((size,)).at[mx.array(seen)].add(1.0) > 0
        else:
            self._counts = self._counts.at[tokens[-1]].add(1.0)
        produced = self._counts > 0
        if sampling.repetition_penalty != 1.0:
            penalty = sampling.repetition_penalty
            penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(produced | self._in_prompt, penalised, logits)
        return logits - sampling.presence_penalty * produced - sampling.frequency_penalty * self._counts

    def __call__(self, logprobs: mx.array) -> mx.array:
        """The next token of each row of *logprobs* (1, V)."""
        position, self._position = self._position, self._position + 1
        sampling = self._sampling
        if sampling.temperature == 0:
            return mx.argmax(logprobs, axis=-1)
        key = mx.random.key(mixed(sampling.seed, position))
        scaled = logprobs.astype(mx.float32) / sampling.temperature
        if sampling.top_p >= 1 and not sampling.top_k and not sampling.min_p:
            return mx.random.categorical(scaled, key=key)
        order = mx.argsort(-scaled, axis=-1)
        best_first = mx.take_along_axis(scaled, order, axis=-1)
        kept = mx.where(self._allowed(mx.softmax(best_first, axis=-1)), best_first, -mx.inf)
        choice = mx.random.categorical(kept, key=key)
        return mx.take_along_axis(order, choice[:, None], axis=-1).squeeze(-1)

    def _allowed(self, probabilities: mx.array) -> mx.array:
        """Which of *probabilities* (best first) may be drawn; the best one always may."""
        sampling = self._sampling
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        allowed = before < sampling.top_p
        if sampling.top_k:
            allowed = allowed & (mx.arange(probabilities.shape[-1]) < sampling.top_k)
        if sampling.min_p:
            allowed = allowed & (probabilities >= sampling.min_p * probabilities[:, :1])
        return allowed | (mx.arange(probabilities.shape[-1]) == 0)


def mixed(seed: int, position: int) -> int:
    """A 64-bit number of *seed* and *position*, such that neighbours have nothing in common."""
    x = ((seed & _MASK) * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
