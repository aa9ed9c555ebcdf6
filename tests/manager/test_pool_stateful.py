"""Lifecycle, planner and pool under any order of events, in virtual time.

Clients send requests, finish and leave; processes load, hang, fail, crash and ignore signals; operators
stop and touch workers; time passes. After every step the budget holds, the counts are consistent and no
busy worker was evicted. At the end every request has a result and no process is left.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.control import WorkerState as S
from contracts.errors import ApiError
from manager.launcher.process import StopSignal
from manager.lifecycle import HOLDS_MEMORY
from manager.memory.pressure import Pressure
from tests.manager.virtual import Request, Scene, settings_of
from tests.manager.virtual_host import Behaviour, FakeProcess, virtual_time

MODELS: dict[str, Any] = {  # under a budget of 12
    "a": {"memory_gb": 8, "idle_timeout_s": 20},
    "b": {"memory_gb": 8, "idle_timeout_s": 0},
    "c": {"memory_gb": 4},
    "d": {"memory_gb": 3, "pinned": True},
    "e": {"memory_gb": 12},
}
MANAGER: dict[str, Any] = {
    "queue_limit": 5,
    "queue_timeout_s": 100,
    "start_timeout_s": 10,
    "drain_timeout_s": 15,
    "stop_timeout_s": 5,
    "stall_timeout_s": 20,
    "max_wait_s": 8,
    "max_requests": 4,
}
aliases = st.sampled_from(sorted(MODELS))
behaviours = st.builds(
    Behaviour,
    load_s=st.sampled_from([0.0, 1.0, 30.0]),
    progress=st.booleans(),
    fails_with=st.sampled_from([None, None, None, "load failed: broken"]),
    hangs=st.sampled_from([False, False, False, True]),
    stubborn=st.booleans(),
    leaves_s=st.sampled_from([0.0, 2.0]),
    stalls=st.sampled_from([False, False, False, True]),
    deaf=st.sampled_from([False, False, False, True]),
)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = virtual_time()
        self.runner = self.time.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        self.requests: list[Request] = []
        self.stopped: set[tuple[str, int]] = set()  # alias and incarnation, stopped on request
        self.stops: list[asyncio.Task[Any]] = []
        self.wrongs: list[str] = []
        self.runner.run(self.open())

    async def open(self) -> None:
        self.scene = Scene(settings_of(Path(self.folder.name), MODELS, **MANAGER), poll_s=0.5)
        self.scene.host.signalled = self.check_signal
        self.pool = self.scene.pool

    def check_signal(self, process: FakeProcess, stop: StopSignal) -> None:
        worker = self.pool.worker(process.alias)
        asked = (process.alias, worker.life.incarnation) in self.stopped
        if stop is StopSignal.KILL and (process.behaviour.stalls or process.behaviour.deaf):
            return  # by the watchdog
        if worker.life.leases and not asked:
            self.wrongs.append(f"{process} was busy and its stop was not requested")
        replaced = bool(worker.recycling) or worker.lifetime.requests >= MANAGER["max_requests"]
        if worker.model.pinned and not asked and not replaced and worker.state is not S.STARTING:
            self.wrongs.append(f"{process} is pinned and its stop was not requested")

    async def then_settle(self, action: Coroutine[Any, Any, None]) -> None:
        await action
        await self.scene.settle()  # lets granted requests resume

    # --- events          -------------------------------------------------------------------------

    @rule(alias=aliases, keep_alive=st.sampled_from([None, None, 0.0, 30.0, -1.0]))
    def a_client_asks(self, alias: str, keep_alive: float | None) -> None:
        async def ask() -> None:
            self.requests.append(self.scene.ask(alias, keep_alive))
            await self.scene.settle()

        self.runner.run(ask())

    @rule(alias=aliases, count=st.integers(2, 7))
    def many_clients_ask_at_once(self, alias: str, count: int) -> None:
        async def ask() -> None:
            self.requests += [self.scene.ask(alias) for _ in range(count)]
            await self.scene.settle()

        self.runner.run(ask())

    @precondition(lambda self: any(r.holds for r in self.requests))
    @rule(data=st.data())
    def a_request_ends(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([r for r in self.requests if r.holds]))
        self.runner.run(self.then_settle(request.finish()))

    @precondition(lambda self: any(not r.task.done() for r in self.requests))
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([r for r in self.requests if not r.task.done()]))
        self.runner.run(self.then_settle(request.leave()))

    @precondition(lambda self: self.scene.host.living())
    @rule(data=st.data(), status=st.sampled_from([-9, 0, 1]))
    def a_process_ends(self, data: st.DataObject, status: int) -> None:
        async def end() -> None:
            data.draw(st.sampled_from(self.scene.host.living())).end(status)
            await self.scene.settle()

        self.runner.run(end())

    @rule(alias=aliases, behaviour=behaviours)
    def the_next_process_behaves_differently(self, alias: str, behaviour: Behaviour) -> None:
        self.scene.host.behaviours[alias] = behaviour

    @rule(alias=aliases)
    def an_operator_stops_a_worker(self, alias: str) -> None:
        async def stop() -> None:
            self.stopped.add((alias, self.pool.worker(alias).life.incarnation))
            self.stops.append(asyncio.create_task(self.pool.stop(alias)))
            await self.scene.settle()

        self.runner.run(stop())

    @rule(alias=aliases)
    def an_operator_touches_a_worker(self, alias: str) -> None:
        async def touch() -> None:
            self.pool.touch(alias)

        self.runner.run(touch())

    @rule(level=st.sampled_from(list(Pressure)))
    def the_memory_pressure_changes(self, level: Pressure) -> None:
        async def play() -> None:
            self.pool.set_pressure(level)
            if level is not Pressure.NORMAL:
                self.pool.relieve()
            await self.scene.settle()

        self.runner.run(play())

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 7.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(self.then_settle(asyncio.sleep(seconds)))

    # --- invariants        -----------------------------------------------------------------------

    @invariant()
    def the_budget_is_kept(self) -> None:
        assert self.scene.host.peak <= self.scene.budget

    @invariant()
    def no_busy_or_pinned_worker_is_stopped(self) -> None:
        assert self.wrongs == []

    @invariant()
    def the_counts_are_consistent(self) -> None:
        for alias, worker in self.pool.workers.items():
            life = worker.life
            held = [
                r
                for r in self.requests
                if r.alias == alias
                and r.holds
                and r.lease is not None
                and r.lease.incarnation == life.incarnation
            ]
            assert life.leases == (len(held) if life.state in HOLDS_MEMORY else 0), worker
            living = [p for p in self.scene.host.living() if p.alias == alias]
            assert len(living) <= 1
            assert not living or worker.process
            assert (life.state in (S.READY, S.DRAINING)) <= (worker.handle is not None)

    @invariant()
    def no_request_waits_for_a_worker_that_could_serve(self) -> None:
        """Unless the worker is held for an earlier request, which waits itself."""
        waiting = [t.alias for t in self.pool._queue]
        if waiting:
            assert self.pool.worker(waiting[0]).state is not S.READY

    @invariant()
    def the_queues_are_bounded(self) -> None:
        assert all(self.pool.queued(alias) <= MANAGER["queue_limit"] for alias in MODELS)

    def teardown(self) -> None:
        try:
            self.runner.run(self.every_request_has_a_result())
        finally:
            self.time.__exit__(None, None, None)
            self.folder.cleanup()

    async def every_request_has_a_result(self) -> None:
        for request in self.requests:
            request.let_finish()
        # Longer than any request may wait.
        await asyncio.sleep(MANAGER["queue_timeout_s"] + 1)
        for request in self.requests:
            assert request.task.done(), request
            if not request.task.cancelled():
                assert isinstance(request.task.exception(), ApiError | None)
        await asyncio.gather(*self.stops)
        assert self.wrongs == []
        await self.scene.end()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
