"""Decides the next step of the vision-language engine. Pure: no clock, no MLX, no sequence objects.

Each step does one kind of work, so its duration is the cost of that work: all running sequences decode
one token, or one sequence starts, has an image encoded, or has a chunk of its prompt prefilled.

Rules:
1. Cancelled sequences are dropped first, before any work.
2. Sequences start in the order of admission, and one is prefilled to its end before the next starts.
3. A sequence starts only while fewer than ``max_concurrency`` decode.
4. After each decode comes at least one piece of prefill work, if there is any; more follow for as long
   as the decoding sequences may wait (``Stall``). So no sequence starves, and no stream stands still.
5. While nothing decodes, an image is encoded at once and chunks have their largest size.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL_STAGES = 1 << 30


@dataclass(frozen=True, slots=True)
class Stall:
    """How long the decoding sequences have waited for prefill work since their last token.

    *spent_s*: seconds of all pieces of work; *last_s*: of the last one. They may take *limit_s*
    together.
    """

    limit_s: float
    spent_s: float = 0.0
    last_s: float = 0.0

    @property
    def allows_more(self) -> bool:
        """Whether another piece like the last one fits. The first piece always does."""
        return self.spent_s + self.last_s <= self.limit_s


@dataclass(frozen=True, slots=True)
class Prefilling:
    """The sequence that has started and does not decode yet.

    *images*: how many are still to be encoded. *tokens*: how many of the prompt are still to be
    prefilled. *min_chunk*: tokens that the next chunk must have at least.
    """

    id: int
    images: int
    tokens: int
    min_chunk: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the engine between two steps. Sequences are ids, in order of admission.

    *cancelled*: those whose client has gone, of any status. *chunk*: tokens to prefill in one step
    while other sequences decode; *chunk_alone*: while none does.
    """

    max_concurrency: int
    decoding: tuple[int, ...] = ()
    prefilling: Prefilling | None = None
    waiting: tuple[int, ...] = ()
    cancelled: tuple[int, ...] = ()
    chunk: int = 1
    chunk_alone: int = 1
    stall: Stall = Stall(0.0)


@dataclass(frozen=True, slots=True)
class Start:
    """Look up the prompt of sequence *id* in the caches."""

    id: int


@dataclass(frozen=True, slots=True)
class Encode:
    """Compute up to *stages* more stages of the vision tower, for the next image of sequence *id*."""

    id: int
    stages: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prefill *tokens* more tokens of the prompt of sequence *id*."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: drop cancelled sequences, then decode one token of each sequence in *decode*, or do one
    piece of prefill *work*."""

    drop: tuple[int, ...] = ()
    decode: tuple[int, ...] = ()
    work: Start | Encode | Prefill | None = None


def plan_step(now: Snapshot) -> StepPlan:
    """The next step for *now*."""
    drop = now.cancelled
    decoding, prefilling, waiting = now.decoding, now.prefilling, now.waiting
    if drop:
        gone = frozenset(drop)
        decoding = tuple(id for id in decoding if id not in gone)
        waiting = tuple(id for id in waiting if id not in gone)
        if prefilling is not None and prefilling.id in gone:
            prefilling = None
    can_start = prefilling is None and waiting and len(decoding) < now.max_concurrency
    if decoding and not ((prefilling or can_start) and now.stall.allows_more):
        return StepPlan(drop, decode=decoding)
    if can_start:
        return StepPlan(drop, work=Start(waiting[0]))
    if prefilling is None:
        return StepPlan(drop)
    if prefilling.images:
        return StepPlan(drop, work=Encode(prefilling.id, 1 if decoding else ALL_STAGES))
    size = max(now.chunk if decoding else now.chunk_alone, prefilling.min_chunk)
    return StepPlan(drop, work=Prefill(prefilling.id, min(size, prefilling.tokens)))
