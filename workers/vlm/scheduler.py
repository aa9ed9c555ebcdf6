"""Holds the unfinished sequences in order of admission, and has their next step planned.

The decision is ``step_plan.plan_step``; the runner (``workers.vlm.runner``) executes it. Imports no
MLX.
"""

from __future__ import annotations

from workers.vlm.prefill_budget import PrefillBudget
from workers.vlm.sequence import Sequence, Status
from workers.vlm.step_plan import Prefilling, Snapshot, Stall, StepPlan, plan_step

_WAITING, _DECODING = Status.WAITING, Status.DECODING


class Scheduler:
    """*max_concurrency*: sequences that decode together. *prefill_tokens*: the largest chunk."""

    def __init__(self, max_concurrency: int, prefill_tokens: int) -> None:
        self._max_concurrency = max_concurrency
        self._spent_s = self._last_s = 0.0  # prefill work since the last decode step
        self.budget = PrefillBudget(prefill_tokens)
        self.sequences: dict[int, Sequence] = {}

    @property
    def busy(self) -> bool:
        return bool(self.sequences)

    def add(self, sequence: Sequence) -> None:
        self.sequences[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        del self.sequences[sequence.id]

    def siblings(self, sequence: Sequence) -> list[Sequence]:
        """The unfinished sequences of the same job, *sequence* itself among them."""
        return [other for other in self.sequences.values() if other.sink is sequence.sink]

    def schedule(self) -> StepPlan:
        return plan_step(self.snapshot())

    def snapshot(self) -> Snapshot:
        decoding: list[int] = []
        waiting: list[int] = []
        cancelled: list[int] = []
        prefilling: Sequence | None = None
        sink, gone = None, False
        for id, sequence in self.sequences.items():  # at each token, so every line counts
            if sequence.sink is not sink:  # siblings follow each other: they are cancelled together
                sink = sequence.sink
                gone = sink.cancelled
            if gone:
                cancelled.append(id)
            status = sequence.status
            if status is _WAITING:
                waiting.append(id)
            elif status is _DECODING:
                decoding.append(id)
            else:
                prefilling = sequence
        counts = self._max_concurrency, tuple(decoding)
        full = len(decoding) >= self._max_concurrency and not cancelled
        if prefilling is None and (full or not waiting):
            return Snapshot(*counts, None, tuple(waiting), tuple(cancelled))
        return Snapshot(
            *counts,
            None if prefilling is None else _prefilling(prefilling),
            tuple(waiting),
            tuple(cancelled),
            chunk=self.budget.chunk(alone=False),
            chunk_alone=self.budget.chunk(alone=True),
            stall=self._stall(),
        )

    def decoded(self, seconds: float) -> None:
        """Record that a decode step took *seconds*."""
        self._spent_s = self._last_s = 0.0
        if all(sequence.status is _DECODING for sequence in self.sequences.values()):
            self.budget.decoded(seconds)

    def worked(self, seconds: float) -> None:
        """Record that a piece of prefill work took *seconds*."""
        if not self._stall().allows_more:  # nothing decodes, so nothing has waited
            self._spent_s = 0.0
        self._spent_s += seconds
        self._last_s = seconds

    def _stall(self) -> Stall:
        return Stall(self.budget.stall_s, self._spent_s, self._last_s)


def _prefilling(sequence: Sequence) -> Prefilling:
    state = sequence.prefill
    assert state is not None
    done = sequence.computed_tokens
    return Prefilling(
        sequence.id, len(state.images), len(sequence.prompt) - done, state.min_chunk - done
    )
