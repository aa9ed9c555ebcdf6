"""A small engine without a model: tests set its output and its speed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.control import Caches, Download, Phase, Work
from workers.engine import (
    Cancelled,
    ChatJob,
    Delta,
    Finished,
    ImageFinished,
    ImageJob,
    Located,
    Prefilled,
    Preview,
    PromptEncoded,
    Report,
    StepFinished,
)
from workers.serial_engine import SerialEngine

WAIT_S = 10.0


def opened() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class FakeEngine(SerialEngine[Any, Any]):
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
    located: Located = field(default_factory=lambda: Located(Path()))

    def __post_init__(self) -> None:
        super().__init__()

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
                self._chat(job, emit)
            else:
                self._generate(job, emit)
        except Cancelled:
            self.cancelled.set()
            raise

    def _chat(self, job: ChatJob, emit: Callable[[Any], None]) -> None:
        emit(Prefilled(5))
        for index in range(job.n):
            for word in self.words:
                self._pass(emit)
                if isinstance(word, Exception):
                    raise word
                emit(Delta(index, word))
            emit(Finished(index, "stop", len(self.words) + 1))

    def _generate(self, job: ImageJob, emit: Callable[[Any], None]) -> None:
        emit(PromptEncoded(3))
        for index in range(job.n):
            for step in range(job.run_steps):
                self._pass(emit)
                emit(StepFinished(index, step + 1, job.run_steps))
                if step < min(job.previews, job.run_steps - 1):
                    small = max(1, job.width // 4), max(1, job.height // 4)
                    gray = bytes([step]) * (3 * small[0] * small[1])
                    emit(Preview(index, step, *small, gray))
            rgb = bytes([(job.seed + index) % 256]) * (3 * job.width * job.height)
            emit(ImageFinished(index, job.width, job.height, rgb))

    def _pass(self, emit: Callable[[Any], None]) -> None:
        self.working.set()
        while not self.turnstile.wait(0.005):
            emit(None)
        self.emitted += 1

    def rest(self) -> bool:
        return False

    def work(self) -> Work:
        return Work()

    def caches(self) -> Caches:
        return Caches()

    def close(self) -> None:
        self.closed.set()
