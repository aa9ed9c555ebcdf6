"""The model thread with an engine that runs one job at once, and no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from contracts.control import Download, Phase
from contracts.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest, Unavailable
from testkit.fakes.engine import FakeEngine
from tests.workers.serving.model_threads import collected, run, running, until
from workers.engine import ChatEvent, ChatJob, Delta, LoadError, Sampling, Turn
from workers.serving.model_thread import ModelThread, Timing

JOB = ChatJob((Turn("user", ("hi",)),), Sampling(), 10)
Model = ModelThread[ChatJob, ChatEvent]


def test_one_thread_loads_and_runs_the_model() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            await asyncio.gather(*(collected(thread, JOB) for _ in range(4)))

    run(work)
    assert len(engine.threads) == 1
    assert engine.threads != {threading.get_ident()}
    assert engine.closed.is_set()


def test_jobs_run_first_come_first_served() -> None:
    engine = FakeEngine()
    jobs = [ChatJob(JOB.turns, Sampling(), number) for number in range(1, 9)]

    async def work() -> None:
        async with running(engine) as thread:
            await asyncio.gather(*(collected(thread, job) for job in jobs))

    run(work)
    assert engine.jobs == jobs


def test_a_cancelled_job_ends_at_the_next_token_and_the_next_job_is_unharmed() -> None:
    engine = FakeEngine(words=["x"] * 1000)

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            task = asyncio.create_task(collected(thread, JOB))
            await until(engine.working.is_set)
            task.cancel()
            await until(engine.cancelled.is_set)
            assert engine.emitted == 0
            engine.turnstile.set()
            engine.words = ["fine"]
            assert Delta(0, "fine") in await collected(thread, JOB)

    run(work)


def test_a_job_that_is_cancelled_while_it_waits_never_starts() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            first = asyncio.create_task(collected(thread, JOB))
            await until(engine.working.is_set)
            second = asyncio.create_task(collected(thread, JOB))
            await asyncio.sleep(0.01)
            second.cancel()
            await asyncio.sleep(0.01)
            engine.turnstile.set()
            await first
            await collected(thread, JOB)

    run(work)
    assert len(engine.jobs) == 2


def test_an_exception_fails_its_own_job_only() -> None:
    engine = FakeEngine(words=["a", RuntimeError("secret inside")])

    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises(GenerationFailed) as caught:
                await collected(thread, JOB)
            assert "secret" not in caught.value.message
            assert caught.value.should_retry is False
            engine.words = ["b"]
            assert Delta(0, "b") in await collected(thread, JOB)

    run(work)


def test_a_client_error_reaches_the_client_unchanged() -> None:
    engine = FakeEngine(refusal=ContextLengthExceeded("too long"))

    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises(InvalidRequest, match="too long"):
                await collected(thread, JOB)

    run(work)


def test_before_the_model_is_ready_no_job_is_taken() -> None:
    engine = FakeEngine(gate=threading.Event())

    async def work() -> None:
        async with running(engine, ready=False) as thread:
            await until(lambda: thread.phase is Phase.LOADING)
            assert thread.detail == "half way"
            with pytest.raises(Unavailable) as caught:
                await collected(thread, JOB)
            assert caught.value.retry_after

    run(work)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LoadError("models.x.path: no such folder"), "models.x.path: no such folder"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_a_failed_load_is_reported_and_never_becomes_ready(error: Exception, reason: str) -> None:
    failed = threading.Event()

    async def work() -> None:
        thread: Model = ModelThread(FakeEngine(load_error=error), on_failed=failed.set)
        thread.start()
        await until(failed.is_set)
        assert (thread.phase, thread.detail) == (Phase.FAILED, reason)
        with pytest.raises(Unavailable, match="could not be loaded"):
            await collected(thread, JOB)

    run(work)


def test_stopping_ends_running_and_waiting_jobs_with_an_error() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            tasks = [asyncio.create_task(collected(thread, JOB)) for _ in range(3)]
            await until(engine.working.is_set)
            await asyncio.sleep(0.01)
            thread.stop_jobs()
            for task in tasks:
                with pytest.raises(Unavailable, match="stopping"):
                    await task
            await until(engine.cancelled.is_set)
            with pytest.raises(Unavailable, match="stopping"):
                await collected(thread, JOB)

    run(work)


def test_a_load_that_is_stopped_is_not_a_failed_load() -> None:
    engine = FakeEngine(gate=threading.Event())
    failed = threading.Event()

    async def work() -> None:
        thread: Model = ModelThread(engine, on_failed=failed.set)
        thread.start()
        await until(lambda: thread.phase is Phase.LOADING)
        assert not thread.close(0.01)
        engine.gate.set()
        assert thread.close(5)

    run(work)
    assert not failed.is_set()


def test_running_and_waiting_jobs_are_counted() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            assert thread.jobs == 0
            engine.turnstile.clear()
            tasks = [asyncio.create_task(collected(thread, JOB)) for _ in range(3)]
            await until(lambda: thread.jobs == 3)
            tasks[0].cancel()
            await until(lambda: thread.jobs == 2)
            engine.turnstile.set()
            await asyncio.gather(*tasks[1:])
            await until(lambda: thread.jobs == 0)

    run(work)


@pytest.mark.parametrize(
    "engine", [FakeEngine(words=[RuntimeError()]), FakeEngine(refusal=Unavailable("no"))]
)
def test_a_failed_job_is_no_longer_counted(engine: FakeEngine) -> None:
    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises((GenerationFailed, Unavailable)):
                await collected(thread, JOB)
            assert thread.jobs == 0
            assert thread.progress > 0

    run(work)


def test_progress_grows_with_each_token_and_stands_still_without_work() -> None:
    engine = FakeEngine(words=["x"] * 50)

    async def work() -> None:
        async with running(engine) as thread:
            assert thread.progress == 0
            await collected(thread, JOB)
            once = thread.progress
            assert once >= 50 + 2  # start and end count too
            await collected(thread, JOB)
            assert thread.progress == 2 * once

    run(work)


def test_timing_covers_the_model_and_not_the_queue() -> None:
    now = [100.0]

    class Slow(FakeEngine):
        def run(self, job: object, emit: Callable[[Any], None]) -> None:
            super().run(job, emit)
            now[0] += 7.0

    async def work() -> None:
        async with running(Slow(), clock=lambda: now[0]) as thread:
            timings = [Timing(), Timing()]

            async def timed(timing: Timing) -> None:
                async with aclosing(thread.run(JOB, timing)) as events:
                    assert [event async for event in events]

            await asyncio.gather(*(timed(timing) for timing in timings))
            assert [timing.seconds(now[0]) for timing in timings] == [7.0, 7.0]

    run(work)


def test_timing_is_zero_before_the_start_and_runs_until_now_before_the_end() -> None:
    assert Timing().seconds(5.0) == 0.0
    assert Timing(began=3.0).seconds(5.0) == 2.0
    assert Timing(began=3.0, ended=4.0).seconds(5.0) == 1.0


def test_the_progress_of_a_download_is_reported_while_it_lasts() -> None:
    engine = FakeEngine(gate=threading.Event(), download=Download(done_bytes=3, total_bytes=9))

    async def work() -> None:
        async with running(engine, ready=False) as thread:
            await until(lambda: thread.phase is Phase.DOWNLOADING)
            assert thread.download == Download(done_bytes=3, total_bytes=9)
            engine.gate.set()
            await until(lambda: thread.phase is Phase.READY)
            assert thread.download is None

    run(work)
