"""The thread of a model that does one job at a time, with an engine without a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from contracts.control import Download, Phase
from contracts.errors import GenerationFailed, InvalidRequest, Unavailable
from testkit.fakes.engine import FakeEngine
from tests.workers.serving.threads import run, until
from workers.engine import Answered, ChatEvent, ChatJob, Delta, LoadError, Sampling, Turn
from workers.serving.model_thread import ModelThread
from workers.serving.ticket import Timing

JOB = ChatJob((Turn("user", ("hi",)),), Sampling(), 10)
Model = ModelThread[ChatJob, ChatEvent]


@asynccontextmanager
async def running(engine: FakeEngine, *, ready: bool = True) -> AsyncIterator[Model]:
    thread: Model = ModelThread(engine, on_failed=lambda: None)
    thread.start()
    try:
        if ready:
            await until(lambda: thread.phase is Phase.READY)
        yield thread
    finally:
        engine.turnstile.set()
        engine.gate.set()
        assert thread.close(5)


async def collected(thread: Model, job: ChatJob = JOB) -> list[Any]:
    async with aclosing(thread.run(job)) as events:
        return [event async for event in events]


def test_one_thread_loads_and_runs_the_model() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            await asyncio.gather(*(collected(thread) for _ in range(4)))

    run(work)
    assert len(engine.threads) == 1
    assert engine.threads != {threading.get_ident()}
    assert engine.closed.is_set()


def test_the_events_of_a_job_come_in_order() -> None:
    async def work() -> None:
        async with running(FakeEngine()) as thread:
            events = await collected(thread)
            assert [e.text for e in events if isinstance(e, Delta)] == ["a", " b", " c"]
            assert isinstance(events[-1], Answered)

    run(work)


def test_jobs_are_done_first_come_first_served() -> None:
    engine = FakeEngine()
    jobs = [ChatJob(JOB.turns, Sampling(), number) for number in range(1, 9)]

    async def work() -> None:
        async with running(engine) as thread:
            await asyncio.gather(*(collected(thread, job) for job in jobs))

    run(work)
    assert engine.jobs == jobs


def test_a_job_that_is_cancelled_ends_at_the_next_token_and_the_next_is_unharmed() -> None:
    engine = FakeEngine(words=["x"] * 1000)

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            task = asyncio.create_task(collected(thread))
            await until(engine.working.is_set)
            task.cancel()
            await until(engine.cancelled.is_set)
            assert engine.emitted == 0
            engine.turnstile.set()
            engine.words = ["fine"]
            assert Delta(0, "fine") in await collected(thread)

    run(work)


def test_a_job_that_is_cancelled_while_it_waits_never_begins() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            first = asyncio.create_task(collected(thread))
            await until(engine.working.is_set)
            second = asyncio.create_task(collected(thread))
            await asyncio.sleep(0.01)
            second.cancel()
            await asyncio.sleep(0.01)
            engine.turnstile.set()
            await first
            await collected(thread)

    run(work)
    assert len(engine.jobs) == 2


def test_an_exception_fails_only_its_own_job() -> None:
    engine = FakeEngine(words=["a", RuntimeError("secret inside")])

    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises(GenerationFailed) as caught:
                await collected(thread)
            assert "secret" not in caught.value.message
            assert caught.value.should_retry is False
            engine.words = ["b"]
            assert Delta(0, "b") in await collected(thread)

    run(work)


def test_what_the_client_did_wrong_is_told_as_it_is() -> None:
    engine = FakeEngine(refusal=InvalidRequest("too long", code="context_length_exceeded"))

    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises(InvalidRequest, match="too long"):
                await collected(thread)

    run(work)


def test_before_the_model_is_ready_it_takes_no_job() -> None:
    engine = FakeEngine(gate=threading.Event())

    async def work() -> None:
        async with running(engine, ready=False) as thread:
            await until(lambda: thread.phase is Phase.LOADING)
            assert thread.detail == "half way"
            with pytest.raises(Unavailable) as caught:
                await collected(thread)
            assert caught.value.retry_after

    run(work)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LoadError("models.x.path: no such folder"), "models.x.path: no such folder"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_a_failed_load_is_told_and_never_becomes_ready(error: Exception, reason: str) -> None:
    failed = threading.Event()

    async def work() -> None:
        thread: Model = ModelThread(FakeEngine(load_error=error), on_failed=failed.set)
        thread.start()
        await until(failed.is_set)
        assert (thread.phase, thread.detail) == (Phase.FAILED, reason)
        with pytest.raises(Unavailable, match="could not be loaded"):
            await collected(thread)

    run(work)


def test_stopping_ends_running_and_waiting_jobs_with_an_error() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            engine.turnstile.clear()
            tasks = [asyncio.create_task(collected(thread)) for _ in range(3)]
            await until(engine.working.is_set)
            await asyncio.sleep(0.01)
            thread.stop_jobs()
            for task in tasks:
                with pytest.raises(Unavailable, match="stopping"):
                    await task
            await until(engine.cancelled.is_set)
            with pytest.raises(Unavailable, match="stopping"):
                await collected(thread)

    run(work)


def test_a_load_that_is_stopped_is_no_failed_load() -> None:
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


def test_jobs_are_those_that_run_or_wait_for_their_turn() -> None:
    engine = FakeEngine()

    async def work() -> None:
        async with running(engine) as thread:
            assert thread.jobs == 0
            engine.turnstile.clear()
            tasks = [asyncio.create_task(collected(thread)) for _ in range(3)]
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
def test_a_job_that_fails_is_no_longer_counted(engine: FakeEngine) -> None:
    async def work() -> None:
        async with running(engine) as thread:
            with pytest.raises((GenerationFailed, Unavailable)):
                await collected(thread)
            assert thread.jobs == 0
            assert thread.progress > 0

    run(work)


def test_progress_grows_with_each_token_and_stands_still_when_the_model_does() -> None:
    engine = FakeEngine(words=["x"] * 50)

    async def work() -> None:
        async with running(engine) as thread:
            assert thread.progress == 0
            await collected(thread)
            once = thread.progress
            assert once >= 50 + 2  # its beginning and its end as well
            await collected(thread)
            assert thread.progress == 2 * once

    run(work)


def test_timing_is_what_the_model_took_and_not_the_queue() -> None:
    now = [100.0]

    class Slow(FakeEngine):
        def run(self, job: object, emit: Callable[[Any], None]) -> None:
            super().run(job, emit)
            now[0] += 7.0

    engine = Slow()

    async def work() -> None:
        thread: Model = ModelThread(engine, on_failed=lambda: None, clock=lambda: now[0])
        thread.start()
        await until(lambda: thread.phase is Phase.READY)
        timings = [Timing(), Timing()]

        async def timed(timing: Timing) -> None:
            async with aclosing(thread.run(JOB, timing)) as events:
                assert [event async for event in events]

        await asyncio.gather(*(timed(timing) for timing in timings))
        assert [timing.seconds(now[0]) for timing in timings] == [7.0, 7.0]
        assert thread.close(5)

    run(work)


def test_a_job_that_never_began_took_no_time_and_one_that_runs_took_until_now() -> None:
    assert Timing().seconds(5.0) == 0.0
    assert Timing(began=3.0).seconds(5.0) == 2.0
    assert Timing(began=3.0, ended=4.0).seconds(5.0) == 1.0


def test_a_download_is_told_while_it_lasts() -> None:
    engine = FakeEngine(gate=threading.Event(), download=Download(done_bytes=3, total_bytes=9))

    async def work() -> None:
        async with running(engine, ready=False) as thread:
            await until(lambda: thread.phase is Phase.DOWNLOADING)
            assert thread.download == Download(done_bytes=3, total_bytes=9)
            engine.gate.set()
            await until(lambda: thread.phase is Phase.READY)
            assert thread.download is None

    run(work)
