"""The thread of a model that does many jobs at a time, with an engine that says letters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from contracts import metal
from contracts.control import Phase
from contracts.errors import GenerationFailed, InvalidRequest, Unavailable
from tests.workers.serving.threads import run, until
from workers.backend.buffers import REST_S
from workers.batch_engine import Sink
from workers.engine import ChatEvent, Delta
from workers.serving.model_thread import ModelThread
from workers.serving.ticket import Timing, as_told


@dataclass
class ManyEngine:
    """Says a letter of each job's text at each step; the turnstile must be open for a step.

    A text with ``!`` is refused by the reader, one with ``?`` fails at its first letter, one with ``#``
    costs all jobs.
    """

    fault: str = "secret inside"

    turnstile: threading.Event = field(default_factory=threading.Event)
    jobs: list[tuple[str, Sink, int]] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)
    read_on: set[int] = field(default_factory=set)
    stepped_on: set[int] = field(default_factory=set)
    most: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    seen: list[str] = field(default_factory=list)
    prepared: list[int] = field(default_factory=list)  # how many jobs were read before it

    def load(self, report: Any) -> None: ...

    def read(self, job: str) -> str:
        self.read_on.add(threading.get_ident())
        self.seen.append(job)
        if "!" in job:
            raise InvalidRequest("no")
        return job

    def prepare(self) -> None:
        assert self.read_on <= {threading.get_ident()}
        self.prepared.append(len(self.seen))
        raise MemoryError("no room for it")

    def admit(self, reading: str, sink: Sink) -> None:
        self.admitted.append(reading)
        self.jobs.append((reading, sink, 0))

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    def step(self) -> None:
        self.stepped_on.add(threading.get_ident())
        self.most = max(self.most, len(self.jobs))
        self.turnstile.wait(0.005)
        going = []
        for text, sink, at in self.jobs:
            if sink.cancelled:
                sink.end(None)
            elif not self.turnstile.is_set():
                going.append((text, sink, at))
            elif text[at] == "#":
                raise MemoryError(self.fault)
            elif text[at] == "?":
                sink.end(RuntimeError("secret inside"))
            else:
                if at == 0:
                    sink.begin()
                sink.put(Delta(0, text[at]))
                if at + 1 == len(text):
                    sink.end(None)
                else:
                    going.append((text, sink, at + 1))
        self.jobs = going

    def close(self) -> None:
        self.closed.set()


Many = ModelThread[str, ChatEvent]


@asynccontextmanager
async def many(engine: ManyEngine, failed: threading.Event | None = None) -> AsyncIterator[Many]:
    thread: Many = ModelThread(engine, on_failed=(failed or threading.Event()).set)
    thread.start()
    await until(lambda: thread.phase is Phase.READY)
    try:
        yield thread
    finally:
        engine.turnstile.set()
        assert thread.close(5)
        assert engine.closed.is_set()


async def said(thread: Many, text: str) -> str:
    async with aclosing(thread.run(text)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


def test_jobs_run_together_on_one_thread_and_are_read_on_another() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            tasks = [asyncio.create_task(said(thread, text)) for text in ("abc", "de", "fghi")]
            await until(lambda: engine.most == 3)
            engine.turnstile.set()
            assert await asyncio.gather(*tasks) == ["abc", "de", "fghi"]

    run(work)
    assert engine.admitted == ["abc", "de", "fghi"]
    assert len(engine.read_on) == len(engine.stepped_on) == 1
    assert len(engine.read_on | engine.stepped_on | {threading.get_ident()}) == 3


def test_what_later_jobs_may_need_is_made_once_and_only_while_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.serving.model_thread._SPARE_S", 0.1)
    engine = ManyEngine()
    engine.turnstile.set()

    async def work() -> None:
        async with many(engine) as thread:
            assert await said(thread, "abc") == "abc"
            await until(lambda: bool(engine.prepared))
            assert await said(thread, "de") == "de"  # though it has failed
            await asyncio.sleep(0.3)

    run(work)
    assert engine.prepared == [1]


def test_a_job_joins_while_others_run() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            first = asyncio.create_task(said(thread, "x" * 50))
            await until(lambda: engine.busy)
            second = asyncio.create_task(said(thread, "y"))
            await until(lambda: len(engine.jobs) == 2)
            engine.turnstile.set()
            assert await second == "y"
            assert await first == "x" * 50

    run(work)


def test_what_the_reader_refuses_never_reaches_the_model_thread() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            busy = asyncio.create_task(said(thread, "abc"))
            await until(lambda: engine.busy)
            with pytest.raises(InvalidRequest):  # though the model thread is at a standstill
                await said(thread, "no!")
            assert thread.jobs == 1
            engine.turnstile.set()
            assert await busy == "abc"
            assert thread.jobs == 0

    run(work)
    assert engine.admitted == ["abc"]


def test_of_many_jobs_an_exception_fails_its_own_alone() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            tasks = [asyncio.create_task(said(thread, text)) for text in ("abc", "?", "def")]
            await until(lambda: engine.most == 3)
            engine.turnstile.set()
            first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
            assert (first, third) == ("abc", "def")
            assert isinstance(second, GenerationFailed)
            assert "secret" not in second.message
            assert thread.jobs == 0

    run(work)


def test_of_many_jobs_one_that_is_cancelled_ends_at_the_next_step() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            tasks = [asyncio.create_task(said(thread, text)) for text in ("abc", "def")]
            await until(lambda: engine.most == 2)
            tasks[0].cancel()
            await until(lambda: thread.jobs == 1)
            engine.turnstile.set()
            assert await tasks[1] == "def"

    run(work)


def test_a_step_that_raises_tells_all_jobs_and_ends_the_work() -> None:
    engine = ManyEngine()
    failed = threading.Event()

    async def work() -> None:
        async with many(engine, failed) as thread:
            tasks = [asyncio.create_task(said(thread, text)) for text in ("abc", "d#", "efg")]
            await until(lambda: engine.most == 3)
            engine.turnstile.set()
            for task in tasks:
                with pytest.raises(Unavailable, match="started anew") as caught:
                    await task
                assert "secret" not in caught.value.message
                assert caught.value.retry_after
            await until(failed.is_set)
            assert thread.phase is Phase.FAILED
            assert thread.lost
            assert "MemoryError" in thread.detail
            assert thread.jobs == 0
            with pytest.raises(Unavailable, match="started anew"):
                await said(thread, "late")

    run(work)


def test_jobs_that_the_gpu_has_lost_are_told_the_cure() -> None:
    engine = ManyEngine(
        fault="[METAL] Command buffer execution failed: Insufficient Memory"
        " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    )

    async def work() -> None:
        async with many(engine) as thread:
            engine.turnstile.set()
            with pytest.raises(Unavailable, match=r"fewer models loaded.*started anew"):
                await said(thread, "d#")
            assert metal.fault_of([thread.detail]), "the manager finds it in the last line"

    run(work)


def test_a_job_that_the_gpu_failed_at_is_told_the_cure() -> None:
    error = as_told(RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"))
    assert isinstance(error, GenerationFailed)
    assert "let the display sleep" in error.message
    other = as_told(RuntimeError("Insufficient Memory of another kind"))
    assert str(other) == "the model failed at this request (RuntimeError)"


def test_jobs_that_wait_when_the_others_are_lost_are_told_too() -> None:
    engine = ManyEngine()

    async def work() -> None:
        async with many(engine) as thread:
            first = asyncio.create_task(said(thread, "a#"))
            await until(lambda: engine.busy)
            step = engine.step
            held = threading.Event()

            def last() -> None:
                held.wait(5)
                engine.turnstile.set()
                step()
                step()

            engine.step = last  # type: ignore[method-assign]
            await asyncio.sleep(0.02)
            second = asyncio.create_task(said(thread, "bcd"))
            await until(lambda: "bcd" in engine.seen)
            held.set()
            for task in (first, second):
                with pytest.raises(Unavailable, match="started anew"):
                    await task

    run(work)
    assert engine.admitted == ["a#"]


def test_progress_grows_with_each_step_of_many_jobs() -> None:
    engine = ManyEngine()
    engine.turnstile.set()

    async def work() -> None:
        async with many(engine) as thread:
            before = thread.progress
            await said(thread, "x" * 20)
            assert thread.progress >= before + 20

    run(work)


def test_timing_of_one_of_many_begins_when_the_model_begins_with_it() -> None:
    now = [100.0]
    engine = ManyEngine()

    async def work() -> None:
        thread: Many = ModelThread(engine, on_failed=lambda: None, clock=lambda: now[0])
        thread.start()
        await until(lambda: thread.phase is Phase.READY)
        timing = Timing()

        async def timed() -> None:
            async with aclosing(thread.run("ab", timing)) as events:
                assert [event async for event in events]

        task = asyncio.create_task(timed())
        await until(lambda: engine.busy)
        assert timing.seconds(now[0]) == 0.0
        now[0] = 107.0
        engine.turnstile.set()
        await task
        assert timing.began == 107.0
        assert timing.ended == 107.0
        assert thread.close(5)

    run(work)


@dataclass
class RestingEngine(ManyEngine):
    """Has ``steps`` to give back; notes whether jobs were there when it was asked to."""

    steps: int = 5
    rested: list[bool] = field(default_factory=list)

    def rest(self) -> bool:
        self.rested.append(self.busy)
        return len(self.rested) < self.steps


def test_buffers_are_given_back_step_by_step_while_nobody_waits_and_never_beside_a_job() -> None:
    engine = RestingEngine(steps=5)

    async def work() -> None:
        async with many(engine) as thread:
            await until(lambda: len(engine.rested) == 5)
            await asyncio.sleep(3 * REST_S)
            assert len(engine.rested) == 5, "there was no more to do"
            engine.rested.clear()
            engine.steps = 1 << 30
            for _ in range(3):
                engine.turnstile.clear()
                said_by = asyncio.create_task(said(thread, "abc"))
                await until(lambda: engine.busy)
                before = len(engine.rested)
                await asyncio.sleep(2 * REST_S)
                assert len(engine.rested) == before
                engine.turnstile.set()
                assert await said_by == "abc"
                await until(partial(lambda at: len(engine.rested) > at + 1, before))
            assert not any(engine.rested)

    run(work)


def test_an_engine_that_can_t_give_back_goes_on_with_its_jobs() -> None:
    engine = RestingEngine()

    def broken() -> bool:
        engine.rested.append(False)
        raise MemoryError("no room for it")

    engine.rest = broken  # type: ignore[method-assign]

    async def work() -> None:
        async with many(engine) as thread:
            await until(lambda: bool(engine.rested))
            engine.turnstile.set()
            assert await said(thread, "abc") == "abc"
            await asyncio.sleep(3 * REST_S)
            assert len(engine.rested) <= 2, "once after each time of work"

    run(work)
