"""Runs jobs in one engine, admitted and cancelled at chosen steps, and records their events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from contracts.tasks import TASKS
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, talk
from workers.engine import ChatJob, Delta, Finished, Prefilled, Turn
from workers.vlm.completions import text_of

RED_CIRCLE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))
GREEN_STAR = Scene("yellow", (Thing("green", "star", 0.5, 0.5, 0.32),))
WORD = Scene("white", (), "CAT42", "blue")
CIRCLE, STAR, CAT = (world.render(scene) for scene in (RED_CIRCLE, GREEN_STAR, WORD))
CAPTION = TASKS["caption"].prompt
COLOR = "What color is the background?"
KOREAN = world.TASKS["korean"][0][0]
FILLER = "the quick brown fox jumps over the lazy dog "


@dataclass
class Listener:
    """A sink that records the events, and is cancelled after *leaves_after* of them."""

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

    def advance(self) -> None: ...

    def end(self, error: BaseException | None) -> None:
        assert not self.ended
        self.ended, self.error = True, error


@dataclass(frozen=True)
class Arrival:
    """*job* is admitted before step *at*."""

    job: ChatJob
    at: int = 0
    leaves_after: int | None = None


def admit(engine: Any, job: ChatJob, listener: Listener | None = None) -> Listener:
    listener = listener or Listener()
    engine.admit(engine.prepare(job), listener)
    return listener


def finish(engine: Any) -> None:
    while engine.busy:
        engine.step()


def play(talker: Talker, arrivals: Sequence[Arrival]) -> list[Listener]:
    """Run *arrivals* in one engine to their ends."""
    engine = talker.engine

    def work() -> list[Listener]:
        listeners = [Listener(arrival.leaves_after) for arrival in arrivals]
        pending = sorted(range(len(arrivals)), key=lambda i: arrivals[i].at)
        step = 0
        while pending or engine.busy:
            while pending and (arrivals[pending[0]].at <= step or not engine.busy):
                i = pending.pop(0)
                admit(engine, arrivals[i].job, listeners[i])
            engine.step()
            step += 1
        return listeners

    result: list[Listener] = talker.do(work)
    return result


def clear_caches(talker: Talker) -> None:
    talker.do(talker.engine.runner.prefixes.clear)
    talker.do(talker.engine.runner.features.clear)


def alone(talker: Talker, job: ChatJob) -> list[Any]:
    """The events of *job* in an idle engine with empty caches."""
    clear_caches(talker)
    (listener,) = play(talker, [Arrival(job)])
    assert listener.error is None
    return listener.events


def completions(events: Sequence[Any]) -> list[Any]:
    """Everything that a client sees in *events*, except how much was cached."""
    ends = [event for event in events if isinstance(event, Finished)]
    return [
        (
            end.index,
            text_of(events, end.index),
            end.finish_reason,
            end.completion_tokens,
            [e for e in events if isinstance(e, Prefilled)],
        )
        for end in sorted(ends, key=lambda end: end.index)
    ]


def logprobs(events: Sequence[Any]) -> list[Any]:
    return [entry for e in events if isinstance(e, Delta) for entry in e.logprobs]


def user(*parts: Any) -> Turn:
    return Turn("user", parts)


def job_of(turns: list[Turn], **style: Any) -> ChatJob:
    extra = {k: style.pop(k) for k in ("logprobs", "top_logprobs", "logit_bias") if k in style}
    return replace(talk(turns, **{"max_tokens": 9, **style}), **extra)


def complete(listener: Listener, job: ChatJob) -> bool:
    return sum(isinstance(event, Finished) for event in listener.events) == job.n
