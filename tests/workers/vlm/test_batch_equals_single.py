"""In any mix of jobs, a request gets what it gets alone: on the demo checkpoint."""

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
    clear_caches,
    complete,
    completions,
    job_of,
    logprobs,
    play,
    user,
)
from workers.engine import ChatJob, Turn
from workers.vlm.completions import text_of

pytestmark = pytest.mark.mlx


def pool() -> list[ChatJob]:
    """Two jobs of every style, with different contents, and short enough to run hundreds of them."""
    prompts: list[list[Turn]] = [
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
        job_of(prompts[number % len(prompts)], **styles[number % len(styles)])
        for number in range(2 * len(styles))
    ]


@pytest.fixture(scope="module")
def expected(qwen: Talker) -> list[tuple[ChatJob, list[Any]]]:
    """Jobs of every kind, and the events of each alone."""
    return [(job, alone(qwen, job)) for job in pool()]


@pytest.mark.parametrize("part", range(4))
def test_in_any_order_of_arrival_each_request_gets_what_it_gets_alone(
    qwen: Talker, expected: list[tuple[ChatJob, list[Any]]], part: int
) -> None:
    """Eight random loads of up to six jobs, which arrive at any step and may be cancelled."""
    for number in range(8):
        rng = random.Random(f"{part}/{number}")
        if rng.random() < 0.5:
            clear_caches(qwen)
        chosen = [rng.choice(expected) for _ in range(rng.randint(2, 6))]
        arrivals = [
            Arrival(
                job,
                rng.choice([0, 0, rng.randint(0, 20)]),
                rng.randint(0, 6) if rng.random() < 0.25 else None,
            )
            for job, _ in chosen
        ]
        listeners = play(qwen, arrivals)
        for arrival, listener, (_, events) in zip(arrivals, listeners, chosen, strict=True):
            assert listener.error is None
            if arrival.leaves_after is not None and not complete(listener, arrival.job):
                assert text_of(events).startswith(text_of(listener.events))
                continue
            assert completions(listener.events) == completions(events), (part, number)
            for ours, other in zip(logprobs(listener.events), logprobs(events), strict=True):
                assert ours.token_id == other.token_id
                assert ours.logprob == pytest.approx(other.logprob, abs=1e-3)
                assert [one.token_id for one in ours.top[:1]] == [one.token_id for one in other.top[:1]]


def test_every_sequence_in_a_batch_may_be_another_kind_of_request(
    qwen: Talker, expected: list[tuple[ChatJob, list[Any]]]
) -> None:
    """More jobs than the batch holds, all at once."""
    arrivals = [Arrival(job) for job, _ in expected]
    for listener, (_, events) in zip(play(qwen, arrivals), expected, strict=True):
        assert completions(listener.events) == completions(events)


def test_greedy_completions_are_those_of_the_library_alone(
    qwen: Talker, expected: list[tuple[ChatJob, list[Any]]]
) -> None:
    plain = [
        (job, events)
        for job, events in expected
        if job.sampling.temperature == 0 and job.max_tokens == 9 and not job.stops
        if job.sampling.repetition_penalty == 1 and not job.logit_bias
    ]
    assert len(plain) >= 3
    for job, events in plain:
        assert text_of(events) == qwen.do(library_completion, qwen.engine, job)


def library_completion(engine: Any, job: ChatJob) -> str:
    """*job* through mlx-vlm's own ``stream_generate``."""
    from mlx_vlm import stream_generate  # noqa: TID251 - the reference for the engine

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
