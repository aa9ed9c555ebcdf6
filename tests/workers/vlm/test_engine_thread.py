"""The engine on its model thread, under many clients at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from contracts.control import Phase
from contracts.errors import InvalidRequest, Unavailable
from tests.workers.conftest import MODELS, talk, vlm_settings
from tests.workers.vlm.batches import CAPTION, CIRCLE, FILLER, STAR, job_of, user
from workers.engine import Answered, ChatEvent, ChatJob, Turn
from workers.serving.answers import text_of
from workers.serving.model_thread import ModelThread

pytestmark = pytest.mark.mlx
Model = ModelThread[ChatJob, ChatEvent]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    from workers.vlm.engine import VlmEngine

    thread: Model = ModelThread(
        VlmEngine("vlm-best", vlm_settings(MODELS / "vlm-best")), on_failed=lambda: None
    )
    thread.start()
    while thread.phase not in (Phase.READY, Phase.FAILED):
        thread._thread.join(0.01)
    yield thread
    assert thread.close(10)


async def events_of(model: Model, job: ChatJob, leaves_after: int | None = None) -> list[Any]:
    seen: list[Any] = []
    async with aclosing(model.run(job)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == leaves_after:
                break
    return seen


def shown(events: list[Any]) -> Any:
    ends = sorted((e for e in events if isinstance(e, Answered)), key=lambda e: e.index)
    return [(text_of(events, end.index), end.finish_reason, end.completion_tokens) for end in ends]


def jobs() -> list[ChatJob]:
    turns: list[list[Turn]] = [
        [user(CIRCLE, CAPTION)],
        [user(STAR, "What color is the background?")],
        [user("Hello")],
        [user(FILLER * 10)],
    ]
    styles: list[dict[str, Any]] = [
        {},
        {"temperature": 3.0, "seed": 1},
        {"temperature": 3.0, "seed": 2, "n": 2, "top_p": 0.95},
        {"logprobs": True, "top_logprobs": 2},
        {"stops": ("e",)},
    ]
    return [job_of(asked, **style) for asked in turns for style in styles]


def test_under_many_clients_who_come_and_go_each_gets_what_it_gets_alone(model: Model) -> None:
    """Prompts are read on one thread while another decodes: both ask the same tokenizer."""
    draw = random.Random(5)

    async def work() -> None:
        alone = {i: shown(await events_of(model, job)) for i, job in enumerate(jobs())}

        async def client() -> None:
            for _ in range(4):
                i = draw.randrange(len(alone))
                if draw.random() < 0.2:
                    await events_of(model, jobs()[i], leaves_after=draw.randint(1, 4))
                else:
                    assert shown(await events_of(model, jobs()[i])) == alone[i]

        await asyncio.gather(*(client() for _ in range(10)))
        assert model.jobs == 0

    asyncio.run(work())


def test_a_prompt_that_is_too_long_is_refused_while_others_are_answered(model: Model) -> None:
    async def work() -> None:
        long = asyncio.create_task(events_of(model, talk([user("Hello")], n=4, max_tokens=30)))
        with pytest.raises(InvalidRequest) as caught:
            await events_of(model, talk([user("a " * 40_000)]))
        assert caught.value.code == "context_length_exceeded"
        assert len(shown(await long)) == 4

    asyncio.run(work())


def test_the_vocabulary_of_grammars_is_there_before_the_first_job_that_needs_it(model: Model) -> None:
    engine: Any = model._engine
    deadline = time.monotonic() + 10
    while engine._vocabulary is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_when_the_batch_is_lost_all_are_told(model: Model) -> None:
    """The last test of this model: it is of no use afterwards."""

    async def work() -> None:
        waiting = [
            asyncio.create_task(
                events_of(model, job_of([user("Hello")], max_tokens=500, temperature=5.0, seed=i))
            )
            for i in range(10)
        ]
        while model.jobs < 10:  # noqa: ASYNC110 - a condition of other threads
            await asyncio.sleep(0.01)
        engine: Any = model._engine

        def broken() -> None:
            raise RuntimeError("out of memory")

        engine.schedule._batch.decode = broken
        for task in waiting:
            with pytest.raises(Unavailable, match="started anew"):
                await task
        assert model.lost
        assert model.phase is Phase.FAILED

    asyncio.run(work())
