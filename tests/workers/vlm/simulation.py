"""The scheduler under virtual load: real sequences and plans, a runner that only advances a clock.

``Simulation.run`` executes every plan and checks after each step what must always hold.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from workers.engine import ChatJob, Sampling
from workers.vlm.prompt import Prompt, PromptImage
from workers.vlm.scheduler import Scheduler
from workers.vlm.sequence import PrefillState, PreparedJob, Sequence, Status
from workers.vlm.step_plan import Encode, Prefill, Start, StepPlan

PREFILL_TOKENS = 256
STEP_LIMIT = 20_000


@dataclass(frozen=True)
class Load:
    """A job that arrives at time *at*: *n* completions of *tokens* tokens each.

    Its client leaves at time *leaves_at*. Each of its *images* takes *stages* stages to encode.
    """

    at: float
    prompt: int
    tokens: int
    n: int = 1
    images: int = 0
    stages: int = 4
    leaves_at: float | None = None
    min_chunk: int = 0


@dataclass(frozen=True)
class Costs:
    """Seconds: of a decode step, per decoding sequence in it, per chunk, prompt token and stage."""

    decode: float = 0.02
    row: float = 0.001
    chunk: float = 0.005
    token: float = 0.0002
    stage: float = 0.03


@dataclass
class Client:
    """The sink of one job."""

    load: Load
    clock: Any
    ended: bool = False

    @property
    def cancelled(self) -> bool:
        return self.load.leaves_at is not None and self.clock.now >= self.load.leaves_at

    def begin(self) -> None: ...

    def put(self, event: Any) -> None:
        assert not self.ended

    def advance(self) -> None: ...

    def end(self, error: BaseException | None) -> None:
        assert not self.ended
        self.ended = True


class Letters:
    """A tokenizer with one letter per token and no end token."""

    def text(self, tokens: list[int]) -> str:
        return "a" * len(tokens)

    def data(self, token: int) -> bytes:
        return b"a"

    def ends(self, token: int) -> bool:
        return False


def prepared(load: Load) -> PreparedJob:
    images = tuple(PromptImage(key, key, 1, None, None) for key in range(load.images))
    job = ChatJob((), Sampling(), load.tokens, n=load.n)
    return PreparedJob(job, Prompt([0] * load.prompt, images))


@dataclass
class Simulation:
    loads: list[Load]
    max_concurrency: int = 8
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.scheduler = Scheduler(self.max_concurrency, PREFILL_TOKENS)
        self.clients: list[Client] = []
        self.plans: list[StepPlan] = []
        self.started: list[int] = []
        self._ids = 0
        self._waited = self._longest_piece = 0.0  # since the last decode

    def run(self) -> Simulation:
        """Until every job has ended."""
        pending = deque(sorted(self.loads, key=lambda load: load.at))
        while pending or self.scheduler.busy:
            if not self.scheduler.busy:
                self.now = max(self.now, pending[0].at)
            while pending and pending[0].at <= self.now:
                self.admit(pending.popleft())
            self._step()
            assert len(self.plans) < STEP_LIMIT, "a sequence starves"
        assert all(client.ended for client in self.clients)
        return self

    def admit(self, load: Load) -> None:
        client = Client(load, self)
        self.clients.append(client)
        sampler: Any = SimpleNamespace(fault=None, finished=False, pop_logprobs=lambda: None)
        ready = prepared(load)
        for index in range(load.n):
            sequence = Sequence(self._ids, ready, index, sampler, Letters(), client)
            self.scheduler.add(sequence)
            self._ids += 1

    def _step(self) -> None:
        sequences = self.scheduler.sequences
        gone = {id for id, sequence in sequences.items() if sequence.sink.cancelled}
        snapshot = self.scheduler.snapshot()
        plan = self.scheduler.schedule()
        self.plans.append(plan)
        assert plan.drop or plan.decode or plan.work, f"no progress with {snapshot}"
        self._drop(plan)
        assert gone.isdisjoint(sequences)
        if plan.decode:
            self._decode(plan)
        elif plan.work:
            piece = self._work(sequences[plan.work.id], plan.work)
            self.scheduler.worked(piece)
            self._check_stall(piece, snapshot.stall.limit_s, waited=set(snapshot.decoding) - gone)
        decoding = [s for s in sequences.values() if s.status is Status.DECODING]
        assert len(decoding) <= self.max_concurrency
        assert sum(s.status is Status.PREFILLING for s in sequences.values()) <= 1

    def _drop(self, plan: StepPlan) -> None:
        sequences = self.scheduler.sequences
        for id in plan.drop:
            client: Any = sequences[id].sink
            self.scheduler.remove(sequences[id])
            if not any(sequence.sink is client for sequence in sequences.values()):
                client.end(None)

    def _decode(self, plan: StepPlan) -> None:
        sequences = self.scheduler.sequences
        self.now += (seconds := self.costs.decode + self.costs.row * len(plan.decode))
        for id in plan.decode:
            if sequences[id].append(0):
                client: Any = sequences[id].sink
                self.scheduler.remove(sequences[id])
                if not any(sequence.sink is client for sequence in sequences.values()):
                    client.end(None)
        self.scheduler.decoded(seconds)
        self._waited = self._longest_piece = 0.0

    def _work(self, sequence: Sequence, work: Start | Encode | Prefill) -> float:
        client: Any = sequence.sink
        seconds = 0.0
        match work:
            case Start():
                self.started.append(sequence.id)
                sequence.prefill = PrefillState(
                    deque(sequence.prompt.images), min_chunk=client.load.min_chunk
                )
                sequence.status = Status.PREFILLING
            case Encode():
                state = sequence.prefill
                assert state is not None
                state.stages = (
                    deque(range(client.load.stages)) if state.stages is None else state.stages
                )
                done = min(work.stages, len(state.stages))
                seconds = self.costs.stage * done
                for _ in range(done):
                    state.stages.popleft()
                if not state.stages:
                    state.images.popleft()
                    state.stages = None
            case Prefill():
                assert work.tokens > 0
                assert sequence.prefill is not None
                assert not sequence.prefill.images, "an image is missing"
                seconds = self.costs.chunk + self.costs.token * work.tokens
                sequence.computed_tokens += work.tokens
                self.scheduler.budget.prefilled(work.tokens, seconds)
                if sequence.computed_tokens == len(sequence.prompt):
                    sequence.status, sequence.prefill = Status.DECODING, None
        self.now += seconds
        return seconds

    def _check_stall(self, piece: float, limit_s: float, waited: set[int]) -> None:
        """The sequences in *waited* were decoding. They wait up to the limit, plus one piece that took
        longer than expected."""
        if not waited:
            self._waited = self._longest_piece = 0.0
            return
        self._waited += piece
        self._longest_piece = max(self._longest_piece, piece)
        assert self._waited <= limit_s + self._longest_piece + 1e-9
