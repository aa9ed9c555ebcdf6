"""What a request gets in a batch is what it gets alone: the engine on the demo checkpoints."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from contracts.tasks import TASKS
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, talk
from workers.answers import text_of
from workers.engine import Answered, ChatJob, Delta, Grammar, Prompted, Turn

pytestmark = pytest.mark.mlx

RED_CIRCLE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))
GREEN_STAR = Scene("yellow", (Thing("green", "star", 0.5, 0.5, 0.32),))
WORD = Scene("white", (), "CAT42", "blue")
CIRCLE, STAR, CAT = (world.render(scene) for scene in (RED_CIRCLE, GREEN_STAR, WORD))
CAPTION = TASKS["caption"].prompt
KOREAN = world.TASKS["korean"][0][0]
FILLER = "the quick brown fox jumps over the lazy dog "


@dataclass
class Listener:
    """Waits for a job; leaves after so many events, if told."""

    leaves_after: int | None = None
    events: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    ended: bool = False
    begun: int = 0

    @property
    def cancelled(self) -> bool:
        return self.leaves_after is not None and len(self.events) >= self.leaves_after

    def begin(self) -> None:
        self.begun += 1

    def put(self, event: Any) -> None:
        assert not self.ended
        self.events.append(event)

    def end(self, error: BaseException | None) -> None:
        assert not self.ended
        self.ended, self.error = True, error


@dataclass(frozen=True)
class Arrival:
    """*job* comes before step *at*."""

    job: ChatJob
    at: int = 0
    leaves_after: int | None = None


def play(talker: Talker, arrivals: Sequence[Arrival]) -> list[Listener]:
    """Run *arrivals* in one engine to their ends."""
    engine = talker.engine

    def work() -> list[Listener]:
        listeners = [Listener(arrival.leaves_after) for arrival in arrivals]
        todo = sorted(range(len(arrivals)), key=lambda i: arrivals[i].at)
        step = 0
        while todo or engine.busy:
            while todo and (arrivals[todo[0]].at <= step or not engine.busy):
                i = todo.pop(0)
                engine.admit(engine.read(arrivals[i].job), listeners[i])
            engine.step()
            step += 1
        return listeners

    result: list[Listener] = talker.do(work)
    return result


def forget(talker: Talker) -> None:
    talker.do(talker.engine.schedule.prefixes.clear)
    talker.do(talker.engine.schedule.features.clear)


def alone(talker: Talker, job: ChatJob) -> list[Any]:
    """What *job* gets in an empty engine that has never seen anything."""
    forget(talker)
    (listener,) = play(talker, [Arrival(job)])
    assert listener.error is None
    return listener.events


def answers(events: Sequence[Any]) -> list[Any]:
    """All that a client sees of *events*, whichever answer comes first; not what was cached."""
    ends = [event for event in events if isinstance(event, Answered)]
    return [
        (
            end.index,
            text_of(events, end.index),
            end.finish_reason,
            end.completion_tokens,
            [e for e in events if isinstance(e, Prompted)],
        )
        for end in sorted(ends, key=lambda end: end.index)
    ]


def logprobs(events: Sequence[Any]) -> list[Any]:
    return [entry for e in events if isinstance(e, Delta) for entry in e.logprobs]


def user(*parts: Any) -> Turn:
    return Turn("user", parts)


def pool() -> list[ChatJob]:
    """Jobs of every kind, short enough for hundreds of them."""
    asked: list[list[Turn]] = [
        [user(CIRCLE, CAPTION)],
        [user(STAR, CAPTION)],
        [user(CAT, TASKS["ocr"].prompt)],
        [user(STAR, KOREAN)],
        [user("Hello")],
        [user(FILLER * 12)],
        [user(CIRCLE, FILLER * 8)],
        [user(CIRCLE, CAPTION), Turn("assistant", (world.caption(RED_CIRCLE),)), user("What color?")],
        [user(CIRCLE, "and", STAR, CAPTION)],
        [Turn("system", (FILLER * 5,)), user(CAT, CAPTION)],
    ]
    styles: list[dict[str, Any]] = [
        {},
        {"max_tokens": 3},
        {"logprobs": True, "top_logprobs": 3},
        {"temperature": 4.0, "seed": 3},
        {"temperature": 3.0, "top_p": 0.98, "seed": 4},
        {"temperature": 3.0, "top_k": 20, "seed": 5},
        {"temperature": 3.0, "min_p": 0.001, "seed": 6, "logprobs": True},
        {"temperature": 3.0, "seed": 7, "frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"repetition_penalty": 1.3},
        {"stops": (" on", "e s")},
        {"logit_bias": ((257, -100.0), (354, -5.0))},
        {"temperature": 3.0, "seed": 8, "n": 2},
    ]
    draw = random.Random(11)
    jobs = []
    for number in range(40):
        turns = asked[number % len(asked)]
        style = styles[number % len(styles)] if number < 24 else draw.choice(styles)
        jobs.append(job_of(turns, **style))
    return jobs


def job_of(turns: list[Turn], **style: Any) -> ChatJob:
    extra = {k: style.pop(k) for k in ("logprobs", "top_logprobs", "logit_bias") if k in style}
    return replace(talk(turns, **{"max_tokens": 9, **style}), **extra)


@pytest.fixture(scope="module")
def expected(qwen: Talker) -> list[tuple[ChatJob, list[Any]]]:
    """Jobs of every kind, and what each gets alone."""
    return [(job, alone(qwen, job)) for job in pool()]


class TestSameAsAlone:
    @pytest.mark.parametrize("part", range(8))
    def test_in_any_schedule_each_request_gets_what_it_gets_alone(
        self, qwen: Talker, expected: list[tuple[ChatJob, list[Any]]], part: int
    ) -> None:
        """A dozen random schedules of up to six jobs: joining at any step, some leaving early."""
        for number in range(12):
            draw = random.Random(f"{part}/{number}")
            if draw.random() < 0.5:
                forget(qwen)
            chosen = [draw.choice(expected) for _ in range(draw.randint(2, 6))]
            arrivals = [
                Arrival(
                    job,
                    draw.choice([0, 0, draw.randint(0, 20)]),
                    draw.randint(0, 6) if draw.random() < 0.25 else None,
                )
                for job, _ in chosen
            ]
            for arrival, listener, (_, events) in zip(
                arrivals, play(qwen, arrivals), chosen, strict=True
            ):
                assert listener.error is None
                if arrival.leaves_after is not None and not whole(listener, arrival.job):
                    said = text_of(listener.events)
                    assert text_of(events).startswith(said)
                    continue
                assert answers(listener.events) == answers(events), (part, number)
                for got, want in zip(logprobs(listener.events), logprobs(events), strict=True):
                    assert got.token_id == want.token_id
                    assert got.logprob == pytest.approx(want.logprob, abs=1e-3)
                    assert [one.token_id for one in got.top[:1]] == [
                        one.token_id for one in want.top[:1]
                    ]

    def test_every_row_may_be_another_kind_of_request(
        self, qwen: Talker, expected: list[tuple[ChatJob, list[Any]]]
    ) -> None:
        """More jobs than rows, all at once."""
        arrivals = [Arrival(job) for job, _ in expected[:24]]
        for listener, (_, events) in zip(play(qwen, arrivals), expected, strict=False):
            assert answers(listener.events) == answers(events)

    def test_greedy_answers_are_those_of_the_library_alone(
        self, qwen: Talker, expected: list[tuple[ChatJob, list[Any]]]
    ) -> None:
        plain = [
            (job, events)
            for job, events in expected
            if job.sampling.temperature == 0 and job.max_tokens == 9 and not job.stops
            if job.sampling.repetition_penalty == 1 and not job.logit_bias
        ]
        assert len(plain) >= 3
        for job, events in plain:
            assert text_of(events) == qwen.do(bare, qwen.engine, job)


def whole(listener: Listener, job: ChatJob) -> bool:
    return sum(isinstance(event, Answered) for event in listener.events) == job.n


def bare(engine: Any, job: ChatJob) -> str:
    """*job* by mlx-vlm's own ``stream_generate``."""
    from mlx_vlm import stream_generate  # noqa: TID251 - what the engine is compared with

    from workers.prompting import template_messages

    processor = engine._processor
    prompt = processor.apply_chat_template(
        template_messages(job.turns, []), add_generation_prompt=True, tokenize=False
    )
    results = stream_generate(
        engine._model,
        processor,
        prompt,
        image=job.images or None,
        max_tokens=job.max_tokens,
        temperature=0.0,
    )
    tokens = [int(result.token) for result in results][: job.max_tokens]
    text: str = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return text


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
        long = talk([user(FILLER * 120)], max_tokens=2)
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
        from workers.schedule import Schedule

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
            engine.admit(engine.read(talk([user(FILLER * 120)])), listener)
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


class TestCaches:
    def cached(self, talker: Talker, *parts: Any, **fields: Any) -> int:
        events = talker.events(talk([user(*parts)], max_tokens=4, **fields))
        return next(e.cached_tokens for e in events if isinstance(e, Answered))

    def test_the_same_image_and_text_again_is_known_but_for_its_last_token(self, qwen: Talker) -> None:
        forget(qwen)
        prompt = qwen.prompt_tokens([user(CIRCLE, CAPTION)])
        assert self.cached(qwen, CIRCLE, CAPTION) == prompt - 1

    def test_another_image_under_the_same_text_hits_nothing(self, qwen: Talker) -> None:
        forget(qwen)
        assert self.cached(qwen, CIRCLE, CAPTION) == 0
        assert self.cached(qwen, STAR, CAPTION) == 0
        assert self.cached(qwen, STAR, CAPTION) > 90
        assert qwen.ask(STAR, CAPTION) == world.caption(GREEN_STAR)

    def test_one_pixel_makes_another_image(self, qwen: Talker) -> None:
        forget(qwen)
        other = CIRCLE.copy()
        other.putpixel((3, 3), (1, 2, 3))
        self.cached(qwen, CIRCLE, CAPTION)
        assert self.cached(qwen, other, CAPTION) == 0

    def test_the_next_turn_knows_the_turns_before_with_the_answer(self, qwen: Talker) -> None:
        forget(qwen)
        first = [user(CIRCLE, CAPTION)]
        answer = qwen.say(first)
        turns = [*first, Turn("assistant", (answer,)), user("What color is the background?")]
        events = qwen.events(talk(turns))
        (end,) = [e for e in events if isinstance(e, Answered)]
        asked = qwen.prompt_tokens(first)
        assert text_of(events) == "blue"
        assert end.cached_tokens >= asked + 8  # the answer and the token that ended it

    def test_two_pictures_share_the_first(self, qwen: Talker) -> None:
        forget(qwen)
        one = self.cached(qwen, CIRCLE, "and", STAR, CAPTION)
        other = self.cached(qwen, CIRCLE, "and", CAT, CAPTION)
        assert one == 0
        assert 64 <= other < 110  # one picture and the words around it

    def test_a_picture_seen_before_is_not_looked_at_again(self, qwen: Talker) -> None:
        forget(qwen)
        tower = qwen.engine._model.vision_tower
        looks: list[int] = []
        kind = type(tower)

        class Counted(kind):  # type: ignore[misc, valid-type]
            def __call__(self, *args: Any, **fields: Any) -> Any:
                looks.append(1)
                return super().__call__(*args, **fields)

        tower.__class__ = Counted
        try:
            qwen.ask(CIRCLE, CAPTION)
            qwen.ask(CIRCLE, "What color is the background?")
            assert len(looks) == 1
            qwen.ask(STAR, CAPTION)
            assert len(looks) == 2
        finally:
            tower.__class__ = kind

    def test_answers_of_one_request_share_its_prompt(self, qwen: Talker) -> None:
        forget(qwen)
        events = qwen.events(talk([user(CIRCLE, CAPTION)], n=3, temperature=1.0, max_tokens=4))
        ends = sorted((e for e in events if isinstance(e, Answered)), key=lambda e: e.index)
        prompt = next(e.prompt_tokens for e in events if isinstance(e, Prompted))
        assert [end.cached_tokens for end in ends] == [0, prompt - 1, prompt - 1]

    def test_without_caches_answers_are_the_same(self, qwen: Talker) -> None:
        schedule = qwen.engine.schedule
        kept = schedule.prefixes, schedule.features
        schedule.prefixes, schedule.features = type(kept[0])(0), type(kept[1])(0)
        try:
            for _ in range(2):
                assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)
                assert self.cached(qwen, CIRCLE, CAPTION) == 0
            assert (schedule.prefixes.nbytes, schedule.features.nbytes) == (0, 0)
        finally:
            schedule.prefixes, schedule.features = kept

    def test_memory_comes_back_after_a_burst(self, qwen: Talker) -> None:
        from workers import runtime
        from workers.schedule import KEPT_BYTES

        forget(qwen)
        qwen.ask("Hello")
        before = runtime.device_memory()
        play(qwen, [Arrival(talk([user(f"{i} " + FILLER * 20)], max_tokens=12)) for i in range(12)])
        forget(qwen)
        qwen.ask("Hello")
        after = runtime.device_memory()
        assert after.cache <= KEPT_BYTES
        assert after.active <= before.active + (1 << 20)
        assert after.peak > after.active + (1 << 20)


class TestGrammar:
    def constrained(self, **fields: Any) -> ChatJob:
        from llguidance import LLMatcher

        schema = {
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}, "count": {"enum": [1, 2]}},
            "required": ["color", "count"],
            "additionalProperties": False,
        }
        job = talk([user(CIRCLE, CAPTION)], **{"max_tokens": 40, **fields})
        layout: Any = {"whitespace_flexible": False}
        text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=layout)
        return replace(job, grammar=Grammar(text))

    def test_an_answer_keeps_to_its_schema_beside_free_ones(self, qwen: Talker) -> None:
        jobs = [self.constrained(), talk([user(STAR, CAPTION)]), self.constrained(temperature=2.0)]
        expected = [alone(qwen, job) for job in jobs]
        for stagger in (0, 3):
            arrivals = [Arrival(job, stagger * i) for i, job in enumerate(jobs)]
            listeners = play(qwen, arrivals)
            assert [answers(one.events) for one in listeners] == [answers(e) for e in expected]
            for listener in (listeners[0], listeners[2]):
                assert set(json.loads(text_of(listener.events))) == {"color", "count"}
                assert listener.events[-1].finish_reason == "stop"

    def test_new_requests_begin_while_a_constrained_answer_is_drawn(self, qwen: Talker) -> None:
        forget(qwen)
        first, second = play(
            qwen, [Arrival(self.constrained()), Arrival(talk([user("Hello")], max_tokens=2), 3)]
        )
        assert first.ended
        assert second.ended

    def test_answers_of_one_request_keep_to_it_each_by_itself(self, qwen: Talker) -> None:
        job = self.constrained(n=3, temperature=2.0, seed=1)
        (listener,) = play(qwen, [Arrival(job)])
        for index in range(3):
            assert json.loads(text_of(listener.events, index))


class TestLogprobs:
    def test_each_token_has_its_own_and_the_likeliest(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, top_logprobs=4)
        events = alone(qwen, job)
        told = logprobs(events)
        assert b"".join(entry.data for entry in told).decode() == text_of(events)
        for entry in told:
            assert len(entry.top) == 4
            assert entry.top[0].token_id == entry.token_id  # greedy
            assert entry.top[0].logprob == pytest.approx(entry.logprob)
            values = [one.logprob for one in entry.top]
            assert values == sorted(values, reverse=True)
            assert entry.logprob <= 0

    def test_bytes_of_half_characters_make_the_text_together(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, KOREAN)], logprobs=True, max_tokens=40)
        events = alone(qwen, job)
        assert b"".join(entry.data for entry in logprobs(events)).decode() == text_of(events)

    def test_they_are_the_models_own_whatever_is_done_to_the_draw(self, qwen: Talker) -> None:
        plain = logprobs(alone(qwen, job_of([user(CIRCLE, CAPTION)], logprobs=True)))
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, temperature=0.01, frequency_penalty=0.1)
        changed = logprobs(alone(qwen, job))
        for one, other in zip(plain[:5], changed[:5], strict=True):
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)

    def test_tokens_of_a_stop_string_are_not_told(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, stops=(" on",))
        events = alone(qwen, job)
        told = b"".join(entry.data for entry in logprobs(events)).decode()
        assert told == text_of(events) == "a red circle"


class TestMoondream:
    """Few answers: a picture takes a second."""

    def test_prompts_of_unequal_length_decode_together_and_each_gets_its_own(
        self, moondream: Talker
    ) -> None:
        jobs = [
            talk([user(CIRCLE, CAPTION)], max_tokens=9),
            talk([user(STAR, "What color is the background?")], max_tokens=9),
            talk([user("Hello")], max_tokens=6),
            talk([user(CIRCLE, CAPTION)], temperature=2.0, seed=3, max_tokens=6),
        ]
        expected = [alone(moondream, job) for job in jobs]
        for stagger in (0, 2):
            listeners = play(moondream, [Arrival(job, stagger * i) for i, job in enumerate(jobs)])
            assert [answers(one.events) for one in listeners] == [answers(e) for e in expected]
        assert text_of(expected[0]) == world.caption(RED_CIRCLE)

    def test_another_image_hits_nothing_and_the_same_is_known(self, moondream: Talker) -> None:
        forget(moondream)
        cached = []
        for image in (CIRCLE, STAR, CIRCLE):
            events = moondream.events(talk([user(image, CAPTION)], max_tokens=1))
            cached.append(next(e.cached_tokens for e in events if isinstance(e, Answered)))
        assert cached[:2] == [0, 0]
        assert cached[2] > 730
