"""The order of work, cancellation and failures: the engine on the demo checkpoint, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from demo import world
from tests.workers.conftest import Talker, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CIRCLE,
    FILLER,
    GREEN_STAR,
    RED_CIRCLE,
    STAR,
    Arrival,
    Listener,
    admit,
    clear_caches,
    complete,
    finish,
    job_of,
    play,
    user,
)
from workers.engine import Delta
from workers.vlm.completions import text_of
from workers.vlm.sequence import Status
from workers.vlm.step_plan import Encode

pytestmark = pytest.mark.mlx


class TestOrder:
    def test_jobs_start_first_come_first_served_whatever_their_length(self, qwen: Talker) -> None:
        started: list[int] = []

        class Recorder(Listener):
            def begin(self) -> None:
                started.append(id(self))

        lengths = [30, 1, 20, 0, 10]
        listeners = [Recorder() for _ in lengths]

        def work() -> None:
            for size, listener in zip(lengths, listeners, strict=True):
                admit(qwen.engine, talk([user(FILLER * size + "hm")], max_tokens=4), listener)
            finish(qwen.engine)

        qwen.do(work)
        assert started == [id(listener) for listener in listeners]

    def test_at_most_max_concurrency_sequences_decode(self, qwen: Talker) -> None:
        def work() -> list[int]:
            engine = qwen.engine
            no_end = ((626, -100.0), (628, -100.0))
            job = job_of([user("Hello")], n=20, temperature=1.0, max_tokens=12, logit_bias=no_end)
            listener = admit(engine, job)
            seen = []
            while engine.busy:
                engine.step()
                seen.append(len(engine.runner._batch.ids))
            assert complete(listener, job)
            return seen

        assert max(qwen.do(work)) == 8

    def test_the_first_tokens_of_a_burst_come_as_soon_as_each_prompt_is_ready(
        self, qwen: Talker
    ) -> None:
        clear_caches(qwen)
        order: list[int] = []

        class Recorder(Listener):
            def put(self, event: Any) -> None:
                if isinstance(event, Delta):
                    order.append(id(self))
                super().put(event)

        listeners = [Recorder() for _ in range(3)]

        def work() -> None:
            for size, listener in enumerate(listeners):
                job = talk([user(f"{size} " + FILLER * 5)], temperature=1.0, max_tokens=20)
                admit(qwen.engine, job, listener)
            finish(qwen.engine)

        qwen.do(work)
        first = [order.index(id(listener)) for listener in listeners]
        assert first == sorted(first)
        # The first job has emitted more than one word before the last job's first word.
        assert order[: first[2]].count(id(listeners[0])) > 1

    def test_other_sequences_decode_between_the_chunks_of_a_long_prompt(self, qwen: Talker) -> None:
        clear_caches(qwen)
        long = talk([user(FILLER * 60)], max_tokens=2)

        def work() -> int:
            engine = qwen.engine
            running = admit(engine, talk([user("Hello")], temperature=2.0, seed=2, max_tokens=60))
            for _ in range(5):
                engine.step()
            waiting = admit(engine, long)
            between = 0
            while engine.busy:
                before = len(running.events)
                engine.step()
                if waiting.begun and not waiting.events and not running.ended:
                    between += len(running.events) > before
            return between

        assert qwen.do(work) >= 2

    def test_other_sequences_decode_between_the_stages_of_an_image(self, qwen: Talker) -> None:
        """With a stall limit that a single stage exceeds."""
        clear_caches(qwen)
        engine = qwen.engine

        def work() -> tuple[list[str], str]:
            running = admit(engine, job_of([user("Hello")], temperature=4.0, seed=2, max_tokens=40))
            for _ in range(3):
                engine.step()
            captioning = admit(engine, talk([user(CIRCLE, CAPTION)]))
            kinds = []
            while engine.busy:
                if engine.scheduler._spent_s:
                    engine.scheduler._last_s = 1000.0
                plan = engine.scheduler.schedule()
                if isinstance(plan.work, Encode):
                    assert plan.work.stages == 1
                kinds.append("encode" if isinstance(plan.work, Encode) else "other")
                kinds[-1] = "decode" if plan.decode else kinds[-1]
                engine.step()
            assert running.ended
            return kinds, text_of(captioning.events)

        kinds, text = qwen.do(work)
        at = kinds.index("encode")
        assert kinds[at : at + 8] == ["encode", "decode"] * 4  # of six blocks
        assert text == world.caption(RED_CIRCLE)


class TestCancellation:
    def test_a_job_that_is_cancelled_while_it_waits_never_starts(self, qwen: Talker) -> None:
        blocker = Arrival(talk([user("Hello")], n=8, temperature=1.0, max_tokens=10))
        gone = Arrival(talk([user(CIRCLE, CAPTION)]), 0, leaves_after=0)
        _, listener = play(qwen, [blocker, gone])
        assert (listener.ended, listener.error, listener.begun, listener.events) == (True, None, 0, [])

    def test_a_job_that_is_cancelled_during_its_prefill_frees_its_place(self, qwen: Talker) -> None:
        clear_caches(qwen)

        def work() -> Listener:
            engine = qwen.engine
            listener = admit(engine, talk([user(FILLER * 60)]))
            engine.step()
            engine.step()
            (sequence,) = engine.scheduler.sequences.values()
            assert sequence.status is Status.PREFILLING
            assert engine.runner._batch.prefilling
            listener.leaves_after = 0
            engine.step()
            assert not engine.busy
            assert not engine.runner._batch.prefilling
            return listener

        listener = qwen.do(work)
        assert (listener.ended, listener.events) == (True, [])


class TestFailures:
    def test_an_exception_while_sampling_fails_its_own_job_only(self, qwen: Talker) -> None:
        class Broken:
            finished = False

            def mask(self) -> Any:
                raise ZeroDivisionError

            def accept(self, token: int) -> None: ...

        def work() -> tuple[Listener, Listener]:
            engine = qwen.engine
            job = talk([user(CIRCLE, CAPTION)])
            good, bad = admit(engine, job), Listener()
            engine.admit(replace(engine.prepare(job), matchers=(Broken(),)), bad)
            finish(engine)
            return good, bad

        good, bad = qwen.do(work)
        assert text_of(good.events) == world.caption(RED_CIRCLE)
        assert isinstance(bad.error, ZeroDivisionError)
        assert qwen.ask(STAR, CAPTION) == world.caption(GREEN_STAR)

    def test_an_image_that_cannot_be_encoded_fails_its_own_job_only(self, qwen: Talker) -> None:
        clear_caches(qwen)

        def work() -> tuple[Listener, Listener]:
            engine = qwen.engine
            prepared = engine.prepare(talk([user(STAR, CAPTION)]))
            (image,) = prepared.prompt.images
            broken = replace(image, pixels=image.pixels[:-4], key=1)
            good, bad = admit(engine, talk([user(CIRCLE, CAPTION)])), Listener()
            engine.admit(replace(prepared, prompt=replace(prepared.prompt, images=(broken,))), bad)
            finish(engine)
            return good, bad

        good, bad = qwen.do(work)
        assert text_of(good.events) == world.caption(RED_CIRCLE)
        assert bad.error is not None
        assert bad.events == []
