"""What a request gets in a batch is what it gets alone, in any schedule: on the demo checkpoint."""

from __future__ import annotations

import random
from typing import Any

import pytest

from contracts.tasks import TASKS
from demo import world
from tests.workers.conftest import Talker
from tests.workers.vlm.batches import (
    CAPTION,
    CAT,
    CIRCLE,
    FILLER,
    KOREAN,
    RED_CIRCLE,
    STAR,
    Arrival,
    alone,
    answers,
    forget,
    job_of,
    logprobs,
    play,
    user,
    whole,
)
from workers.engine import ChatJob, Turn
from workers.serving.answers import text_of

pytestmark = pytest.mark.mlx


def pool() -> list[ChatJob]:
    """Two jobs of every style, each with other contents; short enough for hundreds of them."""
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
    return [
        job_of(asked[number % len(asked)], **styles[number % len(styles)])
        for number in range(2 * len(styles))
    ]


@pytest.fixture(scope="module")
def expected(qwen: Talker) -> list[tuple[ChatJob, list[Any]]]:
    """Jobs of every kind, and what each gets alone."""
    return [(job, alone(qwen, job)) for job in pool()]


class TestSameAsAlone:
    @pytest.mark.parametrize("part", range(4))
    def test_in_any_schedule_each_request_gets_what_it_gets_alone(
        self, qwen: Talker, expected: list[tuple[ChatJob, list[Any]]], part: int
    ) -> None:
        """Eight random schedules of up to six jobs: joining at any step, some leaving early."""
        for number in range(8):
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
        arrivals = [Arrival(job) for job, _ in expected]
        for listener, (_, events) in zip(play(qwen, arrivals), expected, strict=True):
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


def bare(engine: Any, job: ChatJob) -> str:
    """*job* by mlx-vlm's own ``stream_generate``."""
    from mlx_vlm import stream_generate  # noqa: TID251 - what the engine is compared with

    from workers.vlm.chat_template import template_messages

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
