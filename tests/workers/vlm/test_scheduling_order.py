"""Who is answered when, and who leaves: the engine on the demo checkpoint, a step at a time."""

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
    forget,
    job_of,
    play,
    user,
    whole,
)
from workers.engine import Delta
from workers.serving.answers import text_of

pytestmark = pytest.mark.mlx


class TestOrder:
    def test_answers_begin_first_come_first_served_whatever_their_length(self, qwen: Talker) -> None:
        began: list[int] = []

        class Noting(Listener):
            def begin(self) -> None:
                began.append(id(self))

        lengths = [30, 1, 20, 0, 10]
        listeners = [Noting() for _ in lengths]

        def work() -> None:
            engine = qwen.engine
            for size, listener in zip(lengths, listeners, strict=True):
                engine.admit(engine.read(talk([user(FILLER * size + "hm")], max_tokens=4)), listener)
            while engine.busy:
                engine.step()

        qwen.do(work)
        assert began == [id(listener) for listener in listeners]

    def test_no_more_answers_are_drawn_at_a_time_than_the_settings_allow(self, qwen: Talker) -> None:
        def work() -> list[int]:
            engine = qwen.engine
            listener = Listener()
            endless = ((626, -100.0), (628, -100.0))
            job = job_of([user("Hello")], n=20, temperature=1.0, max_tokens=12, logit_bias=endless)
            engine.admit(engine.read(job), listener)
            seen = []
            while engine.busy:
                engine.step()
                seen.append(len(engine.schedule._batch))
            assert whole(listener, job)
            return seen

        seen = qwen.do(work)
        assert max(seen) == 8

    def test_first_tokens_of_a_burst_come_as_each_is_ready(self, qwen: Talker) -> None:
        forget(qwen)
        order: list[int] = []

        class Noting(Listener):
            def put(self, event: Any) -> None:
                if isinstance(event, Delta):
                    order.append(id(self))
                super().put(event)

        listeners = [Noting() for _ in range(3)]

        def work() -> None:
            engine = qwen.engine
            for size, listener in enumerate(listeners):
                job = talk([user(f"{size} " + FILLER * 5)], temperature=1.0, max_tokens=20)
                engine.admit(engine.read(job), listener)
            while engine.busy:
                engine.step()

        qwen.do(work)
        first = [order.index(id(listener)) for listener in listeners]
        assert first == sorted(first)
        # The first has said more than one word before the last says its first.
        assert order[: first[2]].count(id(listeners[0])) > 1

    def test_a_long_prompt_lets_the_others_go_on_between_its_pieces(self, qwen: Talker) -> None:
        """Words of the stream that runs come between the begin of the long one and its first token."""
        forget(qwen)
        long = talk([user(FILLER * 60)], max_tokens=2)
        seen: list[tuple[int, bool]] = []

        def work() -> None:
            engine = qwen.engine
            running, waiting = Listener(), Listener()
            job = talk([user("Hello")], temperature=2.0, seed=2, max_tokens=60)
            engine.admit(engine.read(job), running)
            for _ in range(5):
                engine.step()
            engine.admit(engine.read(long), waiting)
            while engine.busy:
                before = len(running.events)
                engine.step()
                if waiting.begun and not waiting.events and not running.ended:
                    seen.append((len(running.events) - before, waiting.ended))

        qwen.do(work)
        assert len(seen) >= 4  # pieces
        assert sum(count for count, _ in seen) >= len(seen) // 2

    def test_a_look_at_a_picture_lets_the_others_go_on_between_its_stages(self, qwen: Talker) -> None:
        """By a clock on which each look is too long, one stage of the tower is computed a step."""
        from workers.vlm.scheduler import Schedule

        engine, own = qwen.engine, qwen.engine.schedule

        def work() -> tuple[int, str]:
            now = iter(range(10**9)).__next__
            schedule = Schedule(engine._family, own._batch, engine._words, own._options, now)
            schedule._pace.decoded(0.3)  # 1.2 "seconds" may be lost
            engine.schedule = schedule
            running, looking = Listener(), Listener()
            job = job_of([user("Hello")], temperature=4.0, seed=2, max_tokens=40)
            engine.admit(engine.read(job), running)
            for _ in range(3):
                engine.step()
            engine.admit(engine.read(talk([user(CIRCLE, CAPTION)])), looking)
            between = 0
            while engine.busy:
                before = len(running.events)
                engine.step()
                if looking.begun and engine.schedule._batch.reader is None and not looking.events:
                    between += len(running.events) > before
            return between, text_of(looking.events)

        try:
            between, said = qwen.do(work)
        finally:
            engine.schedule = own
        assert between >= 2  # of six blocks; not every token shows a text
        assert said == world.caption(RED_CIRCLE)


class TestLeaving:
    def test_who_leaves_while_waiting_costs_nothing(self, qwen: Talker) -> None:
        blocker = Arrival(talk([user("Hello")], n=8, temperature=1.0, max_tokens=10))
        gone = Arrival(talk([user(CIRCLE, CAPTION)]), 0, leaves_after=0)
        _, listener = play(qwen, [blocker, gone])
        assert listener.ended
        assert listener.error is None
        assert listener.begun == 0
        assert listener.events == []

    def test_who_leaves_while_the_prompt_is_read_frees_the_place(self, qwen: Talker) -> None:
        forget(qwen)

        def work() -> tuple[int, Listener]:
            engine = qwen.engine
            listener = Listener()
            engine.admit(engine.read(talk([user(FILLER * 60)])), listener)
            engine.step()
            assert engine.schedule._batch.reader is not None
            listener.leaves_after = 0
            engine.step()
            assert not engine.busy
            return len(engine.schedule._batch), listener

        rows, listener = qwen.do(work)
        assert (rows, listener.ended, listener.events) == (0, True, [])

    def test_a_fault_of_one_job_fails_that_job_alone(self, qwen: Talker) -> None:
        class Broken:
            finished = False

            def mask(self) -> Any:
                raise ZeroDivisionError

            def accept(self, token: int) -> None: ...

        def work() -> tuple[Listener, Listener]:
            engine = qwen.engine
            good, bad = Listener(), Listener()
            job = talk([user(CIRCLE, CAPTION)])
            engine.admit(engine.read(job), good)
            engine.admit(replace(engine.read(job), matchers=(Broken(),)), bad)
            while engine.busy:
                engine.step()
            return good, bad

        good, bad = qwen.do(work)
        assert text_of(good.events) == world.caption(RED_CIRCLE)
        assert isinstance(bad.error, ZeroDivisionError)
        assert qwen.ask(STAR, CAPTION) == world.caption(GREEN_STAR)

    def test_a_prompt_that_can_not_be_computed_fails_alone(self, qwen: Talker) -> None:
        forget(qwen)

        def work() -> tuple[Listener, Listener]:
            engine = qwen.engine
            good, bad = Listener(), Listener()
            reading = engine.read(talk([user(STAR, CAPTION)]))
            (picture,) = reading.pictures
            broken = replace(picture, pixels=picture.pixels[:-4], key=1)
            engine.admit(engine.read(talk([user(CIRCLE, CAPTION)])), good)
            engine.admit(replace(reading, pictures=(broken,)), bad)
            while engine.busy:
                engine.step()
            return good, bad

        good, bad = qwen.do(work)
        assert text_of(good.events) == world.caption(RED_CIRCLE)
        assert bad.error is not None
        assert bad.events == []
