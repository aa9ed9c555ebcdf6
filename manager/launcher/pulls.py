"""Downloads the files of a model without loading it, in one process per alias.

Rules: a pull belongs to its alias, not to a client: later requests join it, and a client that leaves
does not stop it. A ``Launch`` starts the process; only its ``Handle`` and its output are used, so only
``PullLauncher`` assumes that it runs on this host. Lines of JSON are progress reports; after a failure
the last other line is the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from contracts.control import Download
from contracts.errors import LoadFailed
from contracts.settings.models import ImageSettings, VlmSettings
from manager import refusal
from manager.launcher import stop_ladder
from manager.launcher.process import (
    Handle,
    LaunchFailed,
    LaunchSpec,
    LocalLauncher,
    Output,
    exit_text,
)
from manager.readiness import moved

log = logging.getLogger(__name__)

LOG_S = 10.0
TERM_GRACE_S = 2.0  # from SIGTERM to SIGKILL
_KEPT_LINES = 20
NEVER = float("-inf")
_REASON = "load failed: "  # how the last line of a failed pull begins

OnChange = Callable[[str, Download | None], None]  # None: the pull has ended
Clock = Callable[[], float]
# Starts a pull for a spec's alias and model; ``Output`` gets its output. Raises ``LaunchFailed``.
Launch = Callable[[LaunchSpec, Output], Awaitable[Handle]]


@dataclass(frozen=True, slots=True)
class PullOutcome:
    """``fetched_bytes``: downloaded by this pull; 0: all files were already there."""

    alias: str
    fetched_bytes: int
    seconds: float


class PullLauncher(LocalLauncher):
    """Starts pulls as children of this process; uses alias and model of a ``LaunchSpec``."""

    def __init__(self, argv: Sequence[str] = (sys.executable, "-m", "workers.pull")) -> None:
        super().__init__(argv)

    def command(self, spec: LaunchSpec) -> list[str]:
        return [*self._argv, "--alias", spec.alias, "--spec", spec.model, "--parent-pipe"]


@dataclass(frozen=True, slots=True)
class Report:
    """A progress line of a pull. Only the last one has ``fetched_bytes``."""

    detail: str
    download: Download | None
    fetched_bytes: int | None


def read_report(line: str) -> Report | None:
    """The report in *line*; None if the line is other output."""
    try:
        parsed = json.loads(line)
        if not isinstance(parsed, dict) or "phase" not in parsed:
            return None
        download = parsed.get("download")
        return Report(
            str(parsed.get("detail", "")),
            None if download is None else Download.model_validate(download),
            parsed.get("fetched_bytes"),
        )
    except (ValueError, ValidationError):
        return None


class Pulls:
    """All pulls of this manager. *on_change* is called in the event loop."""

    def __init__(
        self,
        launch: Launch | None = None,
        *,
        on_change: OnChange = lambda alias, download: None,
        clock: Clock = time.monotonic,
        term_grace_s: float = TERM_GRACE_S,
    ) -> None:
        self._launch = launch or PullLauncher().launch
        self._on_change = on_change
        self._clock = clock
        self._term_grace_s = term_grace_s
        self._pulls: dict[str, tuple[_Pull, asyncio.Task[PullOutcome]]] = {}
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Pulls of {list(self._pulls)}>"

    async def pull(self, alias: str, model: VlmSettings | ImageSettings) -> PullOutcome:
        """Download the files of *alias*, or join the pull that does.

        Raises ``LoadFailed`` with the reason, ``Unavailable`` when the manager shuts down.
        """
        if self._closing.is_set():
            raise refusal.shutting_down()
        if alias not in self._pulls:
            self._begin(alias, model)
        self._pulls[alias][0].background = False  # a client waits for it now
        return await asyncio.shield(self._pulls[alias][1])

    def _begin(
        self, alias: str, model: VlmSettings | ImageSettings, *, background: bool = False
    ) -> None:
        pull = _Pull(alias, self._clock, self._on_change, background=background)
        task = asyncio.create_task(self._run(pull, model.model_dump_json()), name=f"pull-{alias}")
        self._pulls[alias] = (pull, task)
        task.add_done_callback(lambda task: self._ended(alias, task))

    def progress(self, alias: str) -> Download | None:
        """Progress of the pull that loads of *alias* wait for; None when there is none."""
        pull = self._pulls.get(alias)
        return None if pull is None or pull[0].background else pull[0].download or Download()

    def fetched_at(self, alias: str) -> float:
        """When bytes of that pull last arrived or were verified; -inf when there is none."""
        pull = self._pulls.get(alias)
        return NEVER if pull is None or pull[0].background else pull[0].fetched_at

    def update(self, alias: str, model: VlmSettings | ImageSettings) -> None:
        """Download newer files from the Hub while the current ones are in use. Loads do not wait."""
        if not self._closing.is_set() and alias not in self._pulls:
            self._begin(alias, model, background=True)

    async def close(self) -> None:
        """End all pulls; later pulls resume from the downloaded files."""
        self._closing.set()
        await asyncio.gather(*(task for _, task in self._pulls.values()), return_exceptions=True)

    def _ended(self, alias: str, task: asyncio.Task[PullOutcome]) -> None:
        del self._pulls[alias]
        # Read the exception in any case: no client may be waiting for it.
        if not task.cancelled() and (error := task.exception()):
            log.warning("alias=%s pull failed: %s", alias, error)
        self._on_change(alias, None)

    async def _run(self, pull: _Pull, model: str) -> PullOutcome:
        log.info("alias=%s pull begins", pull.alias)
        try:
            handle = await self._launch(LaunchSpec(pull.alias, model, 0, ""), pull.take)
        except LaunchFailed as exc:
            raise LoadFailed(str(exc)) from exc
        status = await self._ended_or_stopped(handle)
        if self._closing.is_set():
            raise refusal.shutting_down()
        return pull.outcome(status)

    async def _ended_or_stopped(self, handle: Handle) -> int:
        """The exit status of *handle*; stops it when the manager shuts down."""
        ended = asyncio.ensure_future(handle.wait())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({ended, closing}, return_when=asyncio.FIRST_COMPLETED)
            return await stop_ladder.stop(handle, ended, self._term_grace_s)
        finally:
            closing.cancel()


class _Pull:
    """One running pull, and the output of its process so far."""

    def __init__(
        self, alias: str, clock: Clock, on_change: OnChange, *, background: bool = False
    ) -> None:
        self.alias = alias
        self.background = background  # no client and no load waits for it
        self.download: Download | None = None
        self.fetched_at = NEVER
        self._clock = clock
        self._on_change = on_change
        self._begun = self._logged = clock()
        self._loop = asyncio.get_running_loop()
        self._partial = b""
        self._fetched: int | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def take(self, data: bytes) -> None:
        """Output of the process; called from a thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take, data)

    def _take(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._take_line(line.decode("utf-8", "replace").strip())

    def _take_line(self, line: str) -> None:
        report = read_report(line)
        if report is None:
            if line:
                self._lines.append(line)
            return
        self._fetched = report.fetched_bytes
        if report.download is not None:
            first = self.download is None
            if first or moved(report.download) > moved(self.download or Download()):
                self.fetched_at = self._clock()
            self.download = report.download
            if not self.background:
                self._on_change(self.alias, report.download)
            if first or self._clock() - self._logged >= LOG_S:
                self._logged = self._clock()
                log.info("alias=%s pull: %s", self.alias, report.detail)

    def outcome(self, status: int) -> PullOutcome:
        """The result for exit status *status*; raises ``LoadFailed``."""
        self._take(b"\n")
        if status != 0 or self._fetched is None:
            raise LoadFailed(self._reason(status))
        seconds = self._clock() - self._begun
        log.info("alias=%s pulled: %d bytes in %.1f s", self.alias, self._fetched, seconds)
        return PullOutcome(self.alias, self._fetched, seconds)

    def _reason(self, status: int) -> str:
        last = self._lines[-1] if self._lines else ""
        if last.startswith(_REASON):
            return last.removeprefix(_REASON)
        return f"the download of {self.alias} ended ({exit_text(status)})" + (last and f": {last}")
