"""A small engine without a model: tests set its output and its speed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contracts.control import Download, Phase
from workers.engine import (
    Answered,
    Cancelled,
    ChatJob,
    Delta,
    Drawn,
    Encoded,
    ImageJob,
    Previewed,
    Prompted,
    Report,
    Stepped,
)

WAIT_S = 10.0


def opened() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class FakeEngine:
    """``words``: the tokens of each completion; an exception among them is raised there.

    ``gate`` must be open for the load to continue, ``turnstile`` for each token or step.
    """

    words: list[str | Exception] = field(default_factory=lambda: ["a", " b", " c"])
    load_error: BaseException | None = None
    download: Download | None = None
    refusal: Exception | None = None
    gate: threading.Event = field(default_factory=opened)
    turnstile: threading.Event = field(default_factory=opened)
    jobs: list[Any] = field(default_factory=list)
    emitted: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    working: threading.Event = field(default_factory=threading.Event)
    threads: set[int] = field(default_factory=set)
    closed: threading.Event = field(default_factory=threading.Event)

    def load(self, report: Report) -> None:
        self.threads.add(threading.get_ident())
        if self.download is None:
            report(Phase.LOADING, "half way")
        else:
            report(Phase.DOWNLOADING, "half way", self.download)
        assert self.gate.wait(WAIT_S)
        if self.load_error is not None:
            raise self.load_error
        report(Phase.WARMING_UP, "")

    def run(self, job: Any, emit: Callable[[Any], None]) -> None:
        self.threads.add(threading.get_ident())
        self.jobs.append(job)
        if self.refusal is not None:
            raise self.refusal
        try:
            if isinstance(job, ChatJob):
                self._talk(job, emit)
            else:
                self._draw(job, emit)
        except Cancelled:
            self.cancelled.set()
            raise

    def _talk(self, job: ChatJob, emit: Callable[[Any], None]) -> None:
        emit(Prompted(5))
        for index in range(job.n):
            for word in self.words:
                self._pass(emit)
                if isinstance(word, Exception):
                    raise word
                emit(Delta(index, word))
            emit(Answered(index, "stop", len(self.words) + 1))

    def _draw(self, job: ImageJob, emit: Callable[[Any], None]) -> None:
        emit(Encoded(3))
        for index in range(job.n):
            for step in range(job.run_steps):
                self._pass(emit)
                emit(Stepped(index, step + 1, job.run_steps))
                if step < min(job.previews, job.run_steps - 1):
                    small = max(1, job.width // 4), max(1, job.height // 4)
                    grey = bytes([step]) * (3 * small[0] * small[1])
                    emit(Previewed(index, step, *small, grey))
            shade = (job.seed + index) % 256
            emit(Drawn(index, job.width, job.height, bytes([shade]) * (3 * job.width * job.height)))

    def _pass(self, emit: Callable[[Any], None]) -> None:
        self.working.set()
        while not self.turnstile.wait(0.005):
            emit(None)
        self.emitted += 1

    def close(self) -> None:
        self.closed.set()
