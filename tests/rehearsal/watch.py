"""Observes a stack from a thread: phases and downloads of each model, footprints of the workers."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import psutil

from contracts.control import ManagerStatus
from hostctl.local_stack import LocalStack
from testkit import plain
from testkit.stacks import processes

GIB = 1 << 30
POLL_S = 0.2


class TooMuch(Exception):
    """A worker needed more memory than the scenario allows, and was killed."""


@dataclass
class Observed:
    """The observations of one alias."""

    phases: dict[str, float] = field(default_factory=dict)  # when each began
    downloads: list[tuple[float, int, int, float]] = field(
        default_factory=list
    )  # time, done, total, eta
    footprint: int = 0  # bytes, the highest
    errors: list[str] = field(default_factory=list)


class Watch:
    """Polls a stack until the end of the block; kills a worker above *most_gb*."""

    def __init__(self, stack: LocalStack, most_gb: float) -> None:
        self._stack = stack
        self._most = most_gb * GIB
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.models: dict[str, Observed] = {alias: Observed() for alias in stack.settings.models}
        self.together = 0  # bytes, the highest sum over all workers
        self.too_much = ""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with plain.Client(base_url=self._stack.url, headers=self._stack.headers, timeout=10) as client:
            while not self._ended.wait(POLL_S):
                with suppress(httpx.HTTPError, ValueError):
                    self._observe(
                        ManagerStatus.model_validate_json(client.get("/v1/system/status").content)
                    )
                self._measure()

    def _observe(self, status: ManagerStatus) -> None:
        now = time.monotonic()
        for alias, model in status.models.items():
            seen = self.models[alias]
            phase = model.phase if model.status == "starting" and model.phase else str(model.status)
            seen.phases.setdefault(phase, now)
            download = model.download
            if download.total_bytes:
                step = (download.done_bytes, download.total_bytes, download.eta_seconds)
                if not seen.downloads or seen.downloads[-1][1:] != step:
                    seen.downloads.append((now, *step))
            if model.last_error and seen.errors[-1:] != [model.last_error]:
                seen.errors.append(model.last_error)

    def _measure(self) -> None:
        """Record the peak of each worker's private memory, which is its footprint."""
        together = 0
        ports = {str(model.port): alias for alias, model in self._stack.settings.models.items()}
        for process in processes(self._stack):
            with suppress(psutil.Error):
                argv = process.cmdline()
                alias = next((ports[word] for word in argv if word in ports), None)
                if "workers" not in argv or alias is None:
                    continue
                held = process.memory_full_info().uss
                together += held
                self.models[alias].footprint = max(self.models[alias].footprint, held)
                if held > self._most:
                    self.too_much = f"{alias} needed over {self._most / GIB:.1f} GiB"
                    process.send_signal(signal.SIGKILL)
        self.together = max(self.together, together)
