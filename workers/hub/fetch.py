"""Downloads the files of a commit into huggingface_hub's cache, several in parallel.

Rules: the cache's own names and locks are used, so that of several processes one downloads a file and
the others wait for it. Progress moves only while bytes arrive or are hashed. Nothing is downloaded if
the disk has no space for all of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import httpx

from contracts.amounts import part_text, progress_text, size_text
from contracts.control import Download, Phase
from workers.engine import Report
from workers.hub.download_meter import DownloadMeter
from workers.hub.remote import File
from workers.hub.resume import Blob, Stopped, fetch
from workers.hub.snapshots import Snapshots

log = logging.getLogger(__name__)

KEPT_FREE_BYTES = 1 << 30  # left free on the disk after the download
REPORT_S = 0.25
LOG_S = 10.0
_PARALLEL = 4  # files
_LOCK_S = 0.5  # between checks whether another process released the lock, or this download was stopped


class DiskFull(Exception):
    """The disk has no space for the rest. The message says how much is needed."""


class Fetch:
    """The download of the *missing* files of *commit* for *alias*; *present_bytes* are in the cache."""

    def __init__(
        self,
        path: str,
        alias: str,
        commit: str,
        missing: Sequence[File],
        present_bytes: int,
        snapshots: Snapshots,
    ) -> None:
        from huggingface_hub import hf_hub_url

        self._path, self._alias = path, alias
        self._cache = snapshots.cache
        self._present_bytes = present_bytes
        self._blobs = [
            Blob(
                f"{path}/{file.name}",
                hf_hub_url(path, file.name, revision=commit),
                snapshots.blob(file),
                file.size,
            )
            for file in {file.etag: file for file in missing}.values()
        ]
        self._hashed = 0
        self._counting = threading.Lock()

    def run(self, report: Report, free: Callable[[Path], int]) -> None:
        """Download them all. Raises ``DiskFull``, and the errors of ``resume.fetch``.

        The last report is ``Phase.LOADING``: the download is over, whatever the load does next.
        """
        needed = sum(blob.size - blob.held() for blob in self._blobs)
        available = free(self._cache)
        if needed + KEPT_FREE_BYTES > available:
            raise DiskFull(
                f"needs {size_text(needed)} more; only {size_text(available)} are free in"
                f" {self._cache} ({size_text(KEPT_FREE_BYTES)} are kept free)"
            )
        if all(blob.path.exists() for blob in self._blobs):
            return
        space = f"{size_text(needed)} into {self._cache}, {size_text(available)} free"
        log.info("downloading %s: %s", self._alias, space)
        self._run(report, space)
        report(Phase.LOADING, "")

    def _run(self, report: Report, space: str) -> None:
        to_hash = sum(blob.size for blob in self._blobs if not blob.path.exists())
        meter = DownloadMeter(self._present_bytes + sum(blob.size for blob in self._blobs))
        started = logged = time.monotonic()

        def advance(detail: str = "") -> Download:
            download = meter.advanced(self._done_bytes, time.monotonic())
            if download.done_bytes < download.total_bytes:
                report(Phase.DOWNLOADING, detail or progress_text(download), download)
                return download
            download = download.model_copy(update={"verified_bytes": self._hashed})
            report(Phase.VERIFYING, part_text(self._hashed, to_hash), download)
            return download

        first = download = advance(space)
        stopped = threading.Event()
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="download") as pool:
            tasks = {pool.submit(self._fetch, blob, stopped) for blob in self._blobs}
            try:
                while tasks:
                    done, tasks = wait(tasks, REPORT_S, FIRST_EXCEPTION)
                    for task in done:
                        task.result()
                    download = advance()
                    if time.monotonic() - logged >= LOG_S:
                        logged = time.monotonic()
                        log.info("downloading %s: %s", self._alias, progress_text(download))
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        fetched = size_text(download.done_bytes - first.done_bytes)
        log.info("downloaded %s: %s in %.0f s", self._alias, fetched, time.monotonic() - started)

    @property
    def _done_bytes(self) -> int:
        return self._present_bytes + sum(blob.held() for blob in self._blobs)

    def _fetch(self, blob: Blob, stopped: threading.Event) -> None:
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(blob, stopped):
            if not blob.path.exists():
                fetch(blob, _open, stopped, on_hashed=self._count)

    def _count(self, count: int) -> None:
        with self._counting:
            self._hashed += count


@contextmanager
def _locked(blob: Blob, stopped: threading.Event) -> Iterator[None]:
    """Hold the lock that huggingface_hub takes for *blob*. Raises ``Stopped``."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    repository = blob.path.parents[1]
    lock = repository.parent / ".locks" / repository.name / f"{blob.path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    while not stopped.is_set():
        held = WeakFileLock(lock, timeout=_LOCK_S)
        try:
            held.__enter__()
        except Timeout:
            continue
        try:
            yield
        finally:
            held.__exit__(None, None, None)
        return
    raise Stopped


@contextmanager
def _open(url: str, start: int) -> Iterator[httpx.Response]:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "accept-encoding": "identity"}
    if start:
        headers["range"] = f"bytes={start}-"
    # Always from the Hub's own URL: the one that it redirects to is signed and expires.
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        yield response
