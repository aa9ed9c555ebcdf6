"""A simulated world for the planner: arrivals, loads and ends in simulated time, without processes.

``Simulation`` carries out the plans of ``schedule`` and checks the invariants at every event.
``fewest_loads`` is the least number of loads with which two models that exclude each other can serve
the same requests, by exhaustive search with knowledge of the future.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from contracts.control import WorkerState as S
from manager.lifecycle import HOLDS_MEMORY
from manager.planner import Serve, Start, Terms, Wait, Waiting, WorkerView, schedule


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; it takes *seconds* once it is granted."""

    at: float
    alias: str
    seconds: float


@dataclass(slots=True)
class Simulation:
    workers: dict[str, WorkerView]
    terms: Terms
    asked: Sequence[Asked]
    load_s: float = 1.0
    stop_s: float = 0.0
    now: float = 0.0
    loads: int = 0
    longest_wait_s: float = 0.0
    _queue: list[tuple[Waiting, Asked]] = field(default_factory=list)
    _events: list[tuple[float, int, str, object]] = field(default_factory=list)
    _counter: int = 0
    _unlaunched: dict[str, int] = field(default_factory=dict)  # bytes reserved
    _used: dict[str, int] = field(default_factory=dict)  # bytes of running processes

    def run(self) -> Simulation:
        for asked in self.asked:
            self._at(asked.at, "ask", asked)
        while self._events:
            self.now, _, what, about = heapq.heappop(self._events)
            getattr(self, f"_{what}")(about)
            self._dispatch()
            self._launch()
            assert sum(self._used.values()) <= self.terms.budget, "the budget is exceeded"
        assert not self._queue, f"starved: {self._queue}"
        return self

    def _at(self, time: float, what: str, about: object) -> None:
        self._counter += 1
        heapq.heappush(self._events, (time, self._counter, what, about))

    def _change(self, alias: str, **fields: object) -> None:
        self.workers[alias] = replace(self.workers[alias], **fields)  # type: ignore[arg-type]

    def _ask(self, asked: Asked) -> None:
        self._queue.append((Waiting(asked.alias, self.now), asked))

    def _answered(self, alias: str) -> None:
        self._change(alias, leases=self.workers[alias].leases - 1, last_used=self.now)

    def _loaded(self, alias: str) -> None:
        self._change(alias, state=S.READY, last_used=self.now, ready_at=self.now)

    def _gone(self, alias: str) -> None:
        del self._used[alias]
        self._change(alias, state=S.STOPPED)

    def _replanned(self, _: None) -> None:
        """Only triggers planning."""

    def _dispatch(self) -> None:
        plans = schedule([w for w, _ in self._queue], self.workers, self.terms, self.now)
        left = []
        for (waiting, asked), made in zip(self._queue, plans, strict=True):
            alias = waiting.alias
            worker = self.workers[alias]
            match made:
                case Serve():
                    assert worker.state is S.READY
                    since = worker.busy_since if worker.leases else self.now
                    self._change(alias, leases=worker.leases + 1, busy_since=since, last_used=self.now)
                    self._at(self.now + asked.seconds, "answered", alias)
                    self.longest_wait_s = max(self.longest_wait_s, self.now - waiting.since)
                    continue
                case Start(memory, evict):
                    for victim in evict:
                        loaded = self.workers[victim]
                        assert loaded.state is S.READY
                        assert not loaded.leases, "a busy worker was evicted"
                        assert not loaded.pinned
                        self._change(victim, state=S.STOPPING)
                        self._at(self.now + self.stop_s, "gone", victim)
                    assert worker.state not in HOLDS_MEMORY
                    self._change(alias, state=S.STARTING)
                    self._unlaunched[alias] = memory
                    self.loads += 1
                case Wait(until=until) if until is not None:
                    self._at(until, "replanned", None)
            left.append((waiting, asked))
        self._queue = left

    def _launch(self) -> None:
        for alias, memory in list(self._unlaunched.items()):
            if sum(self._used.values()) + memory <= self.terms.budget:
                self._used[alias] = memory
                del self._unlaunched[alias]
                self._at(self.now + self.load_s, "loaded", alias)


def random_simulation(seed: int) -> Simulation:
    """A random world of 2 to 4 models, of which some exclude each other, and up to 24 requests."""
    rng = random.Random(seed)
    budget = 12
    workers, pinned = {}, 0
    for alias in "abcd"[: rng.randint(2, 4)]:
        memory = rng.randint(1, budget)
        is_pinned = rng.random() < 0.1 and pinned + memory <= 4
        pinned += memory * is_pinned
        # A model may have been measured above the budget, or above its declared memory.
        measured = rng.choice([memory, memory, memory, rng.randint(1, 16)]) if not is_pinned else memory
        declared = min(memory, budget - 4)
        workers[alias] = WorkerView(alias, S.STOPPED, measured, declared=declared, pinned=is_pinned)
    busy = rng.choice([0.1, 1.0, 4.0])
    at, asked = 0.0, []
    for _ in range(rng.randint(1, 24)):
        at += rng.choice([0.0, rng.expovariate(busy)])
        asked.append(Asked(at, rng.choice(list(workers)), rng.choice([0.0, rng.uniform(0.1, 5.0)])))
    return Simulation(
        workers,
        Terms(budget, max_wait_s=rng.choice([0.0, 2.0, 10.0])),
        asked,
        load_s=rng.uniform(0.1, 4.0),
        stop_s=rng.choice([0.0, rng.uniform(0.0, 1.0)]),
    )


def fewest_loads(asked: Sequence[Asked], *, load_s: float, max_wait_s: float) -> int:
    """The optimum for two models of which only one fits, under the same ``max_wait_s``.

    At every arrival and every end of a load or a request it may grant the requests that wait for the
    loaded model or hold them back, and swap an idle model or keep it; once another has waited for
    ``max_wait_s`` it may neither grant nor keep.
    """
    arrivals = sorted(asked, key=lambda a: a.at)

    @cache
    def best(
        now: float,
        arrived: int,
        waiting: tuple[tuple[float, str, float], ...],
        loaded: str,
        loading_until: float,
        running: tuple[float, ...],
        served: bool,  # since the last load: swapping before that would be useless
    ) -> float:
        ready = bool(loaded) and loading_until <= now
        others = [w for w in waiting if w[1] != loaded]
        over_at = max(others[0][0], loading_until) + max_wait_s if others else 0.0
        due = bool(others) and now >= over_at
        mine = [w for w in waiting if w[1] == loaded and not (due and w[0] > others[0][0])]
        if arrived == len(arrivals) and not waiting:
            return 0
        results = []
        if ready and mine:
            rest = tuple(w for w in waiting if w not in mine)
            granted = tuple(sorted([*running, *(now + w[2] for w in mine)]))
            results.append(best(now, arrived, rest, loaded, loading_until, granted, True))
        idle = not loaded or (ready and not running)
        if idle and others and (served or not loaded):
            results.append(1 + best(now, arrived, waiting, others[0][1], now + load_s, (), False))
        if not (idle and (due or not loaded) and others):
            times = [*running]
            times += [arrivals[arrived].at] if arrived < len(arrivals) else []
            times += [loading_until] if loading_until > now else []
            times += [over_at] if others and not due else []
            if times:  # let time pass until something happens
                then = min(times)
                fresh = [a for a in arrivals[arrived:] if a.at <= then]
                more = (*waiting, *((a.at, a.alias, a.seconds) for a in fresh))
                left = tuple(end for end in running if end > then)
                count = arrived + len(fresh)
                results.append(best(then, count, more, loaded, loading_until, left, served))
        return min(results, default=float("inf"))

    fewest = best(-1.0, 0, (), "", -1.0, (), False)
    assert fewest < float("inf")
    return int(fewest)
