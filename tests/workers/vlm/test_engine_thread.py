"""The engine on its model thread, with many concurrent clients."""

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
from tests.workers.vlm.batches import CAPTION, CIRCLE, COLOR, FILLER, STAR, completions, job_of, user
from workers.engine import ChatEvent, ChatJob, Turn
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


def jobs() -> list[ChatJob]:
    prompts: list[list[Turn]] = [
        [user(CIRCLE, CAPTION)],
        [user(STAR, COLOR)],
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
    return [job_of(turns, **style) for turns in prompts for style in styles]


def test_with_many_clients_that_come_and_leave_each_gets_what_it_gets_alone(model: Model) -> None:
    """One thread tokenizes prompts while another decodes, with the same tokenizer."""
    rng = random.Random(5)

    async def work() -> None:
        alone = {i: completions(await events_of(model, job)) for i, job in enumerate(jobs())}

        async def client() -> None:
            for _ in range(4):
                i = rng.randrange(len(alone))
                if rng.random() < 0.2:
                    await events_of(model, jobs()[i], leaves_after=rng.randint(1, 4))
                else:
                    assert completions(await events_of(model, jobs()[i])) == alone[i]

        await asyncio.gather(*(client() for _ in range(10)))
        assert model.jobs == 0

    asyncio.run(work())


def test_a_prompt_that_is_too_long_is_refused_while_other_jobs_run(model: Model) -> None:
    async def work() -> None:
        long = asyncio.create_task(events_of(model, talk([user("Hello")], n=4, max_tokens=30)))
        with pytest.raises(InvalidRequest) as caught:
            await events_of(model, talk([user("a " * 40_000)]))
        assert caught.value.code == "context_length_exceeded"
        assert len(completions(await long)) == 4

    asyncio.run(work())


def test_the_vocabulary_for_grammars_is_built_before_the_first_job_that_needs_it(model: Model) -> None:
    engine: Any = model._engine
    deadline = time.monotonic() + 10
    while engine._vocabulary is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_when_a_decode_step_fails_all_jobs_get_an_error(model: Model) -> None:
    """The last test of this model, which is unusable afterwards."""

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

        def broken(samplers: Any) -> None:
            raise RuntimeError("out of memory")

        engine.runner._batch.decode = broken
        for task in waiting:
            with pytest.raises(Unavailable, match="restarting"):
                await task
        assert model.lost
        assert model.phase is Phase.FAILED

    asyncio.run(work())
