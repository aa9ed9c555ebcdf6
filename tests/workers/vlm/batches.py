"""Plays jobs in one engine, as they come and go, and tells what each of them got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from contracts.tasks import TASKS
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, talk
from workers.engine import Answered, ChatJob, Delta, Prompted, Turn
from workers.serving.answers import text_of

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


def job_of(turns: list[Turn], **style: Any) -> ChatJob:
    extra = {k: style.pop(k) for k in ("logprobs", "top_logprobs", "logit_bias") if k in style}
    return replace(talk(turns, **{"max_tokens": 9, **style}), **extra)


def whole(listener: Listener, job: ChatJob) -> bool:
    return sum(isinstance(event, Answered) for event in listener.events) == job.n
