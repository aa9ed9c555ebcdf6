"""The model thread with an engine that runs several jobs in a batch, and no model."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contracts import metal
from contracts.control import Caches, Phase, Work
from contracts.errors import GenerationFailed, InvalidRequest, Unavailable
from tests.workers.serving.model_threads import collected, run, running, until
from workers.backend.buffers import REST_S
from workers.engine import Delta, Located, Sink
from workers.serving.model_thread import ModelThread, Timing, client_error


@dataclass
class BatchEngine:
    """Emits one letter of each job's text per step, once the turnstile is open.

    ``prepare`` refuses a text with ``!``. One with ``?`` fails at that letter; ``#`` raises in
    ``step``.
    """

    fault: str = "secret inside"
    turnstile: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    jobs: list[tuple[str, Sink[Any], int]] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    prepare_threads: set[int] = field(default_factory=set)
    step_threads: set[int] = field(default_factory=set)
    largest: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    prebuilt_after: list[int] = field(default_factory=list)  # number of jobs prepared before
    located: Located = field(default_factory=lambda: Located(Path()))

    def load(self, report: Any) -> None: ...

    def prepare(self, job: str) -> str:
        self.prepare_threads.add(threading.get_ident())
        self.prepared.append(job)
        if "!" in job:
            raise InvalidRequest("no")
        return job

    def prebuild(self) -> None:
        assert self.prepare_threads <= {threading.get_ident()}
        self.prebuilt_after.append(len(self.prepared))
        raise MemoryError("no room for it")

    def admit(self, prepared: str, sink: Sink[Any]) -> None:
        self.admitted.append(prepared)
        self.jobs.append((prepared, sink, 0))

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    def step(self) -> None:
        self.step_threads.add(threading.get_ident())
        self.largest = max(self.largest, len(self.jobs))
        self.turnstile.wait(0.005)
        unfinished = []
        for text, sink, at in self.jobs:
            if sink.cancelled:
                sink.end(None)
            elif not self.turnstile.is_set():
                unfinished.append((text, sink, at))
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
                    unfinished.append((text, sink, at + 1))
        self.jobs = unfinished

    def rest(self) -> bool:
        return False

    def work(self) -> Work:
        return Work()

    def caches(self) -> Caches:
        return Caches()

    def close(self) -> None:
        self.closed.set()


async def text_of(thread: ModelThread[Any, Any], text: str) -> str:
    events = await collected(thread, text)
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_jobs_run_together_on_one_thread_and_are_prepared_on_another() -> None:
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine) as thread:
            tasks = [asyncio.create_task(text_of(thread, text)) for text in ("abc", "de", "fghi")]
            await until(lambda: engine.largest == 3)
            engine.turnstile.set()
            assert await asyncio.gather(*tasks) == ["abc", "de", "fghi"]

    run(work)
    assert engine.admitted == ["abc", "de", "fghi"]
    assert engine.closed.is_set()
    assert len(engine.prepare_threads) == len(engine.step_threads) == 1
    assert len(engine.prepare_threads | engine.step_threads | {threading.get_ident()}) == 3


def test_prebuild_is_called_once_and_only_while_no_job_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.serving.model_thread._IDLE_S", 0.1)
    engine = BatchEngine()
    engine.turnstile.set()

    async def work() -> None:
        async with running(engine) as thread:
            assert await text_of(thread, "abc") == "abc"
            await until(lambda: bool(engine.prebuilt_after))
            assert await text_of(thread, "de") == "de"  # although it has failed
            await asyncio.sleep(0.3)

    run(work)
    assert engine.prebuilt_after == [1]


def test_a_job_joins_while_others_run() -> None:
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine) as thread:
            first = asyncio.create_task(text_of(thread, "x" * 50))
            await until(lambda: engine.busy)
            second = asyncio.create_task(text_of(thread, "y"))
            await until(lambda: len(engine.jobs) == 2)
            engine.turnstile.set()
            assert await second == "y"
            assert await first == "x" * 50

    run(work)


def test_a_refused_job_never_reaches_the_model_thread() -> None:
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine) as thread:
            busy = asyncio.create_task(text_of(thread, "abc"))
            await until(lambda: engine.busy)
            with pytest.raises(InvalidRequest):  # while the model thread stands still
                await text_of(thread, "no!")
            assert thread.jobs == 1
            engine.turnstile.set()
            assert await busy == "abc"
            assert thread.jobs == 0

    run(work)
    assert engine.admitted == ["abc"]


def test_an_exception_fails_its_own_job_and_not_the_rest_of_the_batch() -> None:
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine) as thread:
            tasks = [asyncio.create_task(text_of(thread, text)) for text in ("abc", "?", "def")]
            await until(lambda: engine.largest == 3)
            engine.turnstile.set()
            first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
            assert (first, third) == ("abc", "def")
            assert isinstance(second, GenerationFailed)
            assert "secret" not in second.message
            assert thread.jobs == 0

    run(work)


def test_a_cancelled_job_leaves_the_batch_at_the_next_step() -> None:
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine) as thread:
            tasks = [asyncio.create_task(text_of(thread, text)) for text in ("abc", "def")]
            await until(lambda: engine.largest == 2)
            tasks[0].cancel()
            await until(lambda: thread.jobs == 1)
            engine.turnstile.set()
            assert await tasks[1] == "def"

    run(work)


class TestLoss:
    def test_a_step_that_raises_fails_all_jobs_and_ends_the_work(self) -> None:
        engine = BatchEngine()
        failed = threading.Event()

        async def work() -> None:
            async with running(engine, failed=failed) as thread:
                tasks = [asyncio.create_task(text_of(thread, text)) for text in ("abc", "d#", "efg")]
                await until(lambda: engine.largest == 3)
                engine.turnstile.set()
                for task in tasks:
                    with pytest.raises(Unavailable, match="restarting") as caught:
                        await task
                    assert "secret" not in caught.value.message
                    assert caught.value.retry_after
                await until(failed.is_set)
                assert thread.phase is Phase.FAILED
                assert thread.lost
                assert "MemoryError" in thread.detail
                assert thread.jobs == 0
                with pytest.raises(Unavailable, match="restarting"):
                    await text_of(thread, "late")

        run(work)

    def test_a_gpu_fault_is_reported_with_its_remedy(self) -> None:
        engine = BatchEngine(
            fault="[METAL] Command buffer execution failed: Insufficient Memory"
            " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
        )

        async def work() -> None:
            async with running(engine) as thread:
                engine.turnstile.set()
                with pytest.raises(Unavailable, match=r"fewer models.*restarting"):
                    await text_of(thread, "d#")
                assert metal.fault_of([thread.detail]), "the manager finds it in the last line"

        run(work)

    def test_a_gpu_fault_of_one_job_is_reported_with_its_remedy(self) -> None:
        fault = "[METAL] Command buffer execution failed: Caused GPU Timeout Error"
        error = client_error(RuntimeError(fault))
        assert isinstance(error, GenerationFailed)
        assert "let the display sleep" in error.message
        other = client_error(RuntimeError("Insufficient Memory of another kind"))
        assert str(other) == "the model failed at this request (RuntimeError)"

    def test_waiting_jobs_fail_too(self) -> None:
        engine = BatchEngine()

        async def work() -> None:
            async with running(engine) as thread:
                first = asyncio.create_task(text_of(thread, "a#"))
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
                second = asyncio.create_task(text_of(thread, "bcd"))
                await until(lambda: "bcd" in engine.prepared)
                held.set()
                for task in (first, second):
                    with pytest.raises(Unavailable, match="restarting"):
                        await task

        run(work)
        assert engine.admitted == ["a#"]


def test_timing_begins_when_the_model_starts_with_the_job() -> None:
    now = [100.0]
    engine = BatchEngine()

    async def work() -> None:
        async with running(engine, clock=lambda: now[0]) as thread:
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
            assert (timing.began, timing.ended) == (107.0, 107.0)

    run(work)


@dataclass
class RestingEngine(BatchEngine):
    """Has ``steps`` steps of memory to free. Records whether jobs were running when it was called."""

    steps: int = 5
    rested: list[bool] = field(default_factory=list)

    def rest(self) -> bool:
        self.rested.append(self.busy)
        return len(self.rested) < self.steps


def test_memory_is_freed_step_by_step_while_idle_and_never_during_a_job() -> None:
    engine = RestingEngine(steps=5)

    async def work() -> None:
        async with running(engine) as thread:
            await until(lambda: len(engine.rested) == 5)
            await asyncio.sleep(3 * REST_S)
            assert len(engine.rested) == 5, "there was nothing more to free"
            engine.rested.clear()
            engine.steps = 1 << 30
            for _ in range(3):
                engine.turnstile.clear()
                task = asyncio.create_task(text_of(thread, "abc"))
                await until(lambda: engine.busy)
                before = len(engine.rested)
                await asyncio.sleep(2 * REST_S)
                assert len(engine.rested) == before
                engine.turnstile.set()
                assert await task == "abc"
                await until(partial(lambda at: len(engine.rested) > at + 1, before))
            assert not any(engine.rested)

    run(work)


def test_an_engine_that_fails_to_free_memory_keeps_serving_jobs() -> None:
    engine = RestingEngine()

    def broken() -> bool:
        engine.rested.append(False)
        raise MemoryError("no room for it")

    engine.rest = broken  # type: ignore[method-assign]

    async def work() -> None:
        async with running(engine) as thread:
            await until(lambda: bool(engine.rested))
            engine.turnstile.set()
            assert await text_of(thread, "abc") == "abc"
            await asyncio.sleep(3 * REST_S)
            assert len(engine.rested) <= 2, "once after each time of work"

    run(work)
