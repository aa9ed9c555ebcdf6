"""Fetches the files of a commit into huggingface_hub's cache, several at a time.

Rules: the cache's own names and locks, so that processes which want the same file wait for the one that
fetches it; progress moves while bytes come or are hashed, and only then; no byte is fetched that the
disk has no room for.
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
from workers.hub.copies import Copies
from workers.hub.download_meter import DownloadMeter
from workers.hub.remote import File
from workers.hub.resume import Blob, Stopped, fetch

log = logging.getLogger(__name__)

KEPT_FREE_BYTES = 1 << 30  # of the disk, after the download
REPORT_S = 0.25
LOG_S = 10.0
_AT_ONCE = 4  # files
_LOCK_S = 0.5  # between looks at whether somebody else's download has ended, or ours is not wanted


class NoRoom(Exception):
    """The disk has no room for the rest; the message says how much is missing."""


class Fetch:
    """The download of *missing* files of *commit* for *alias*; *present* bytes are there already."""

    def __init__(
        self,
        path: str,
        alias: str,
        commit: str,
        missing: Sequence[File],
        present: int,
        copies: Copies,
    ) -> None:
        from huggingface_hub import hf_hub_url

        self._path, self._alias = path, alias
        self._copies = copies
        self._present = present
        self._blobs = [
            Blob(
                f"{path}/{file.name}",
                hf_hub_url(path, file.name, revision=commit),
                copies.blob(file),
                file.size,
            )
            for file in {file.etag: file for file in missing}.values()
        ]
        self._hashed = 0
        self._counting = threading.Lock()

    def run(self, report: Report, free: Callable[[Path], int]) -> None:
        """Fetch them all. Raises ``NoRoom``, and what ``resume.fetch`` raises."""
        needed = sum(blob.size - blob.held() for blob in self._blobs)
        there = free(self._copies.cache)
        if needed + KEPT_FREE_BYTES > there:
            raise NoRoom(
                f"needs {size_text(needed)} more; only {size_text(there)} are free in"
                f" {self._copies.cache} ({size_text(KEPT_FREE_BYTES)} are kept free)"
            )
        if all(blob.path.exists() for blob in self._blobs):
            return
        room = f"{size_text(needed)} into {self._copies.cache}, {size_text(there)} free"
        log.info("downloading %s: %s", self._alias, room)
        self._run(report, room)

    def _run(self, report: Report, room: str) -> None:
        to_hash = sum(blob.size for blob in self._blobs if not blob.path.exists())
        meter = DownloadMeter(self._present + sum(blob.size for blob in self._blobs))
        begun = logged = time.monotonic()

        def tell(words: str = "") -> Download:
            download = meter.advanced(self._done, time.monotonic())
            if download.done_bytes < download.total_bytes:
                report(Phase.DOWNLOADING, words or progress_text(download), download)
                return download
            download = download.model_copy(update={"verified_bytes": self._hashed})
            report(Phase.VERIFYING, part_text(self._hashed, to_hash), download)
            return download

        first = download = tell(room)
        stopped = threading.Event()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
            tasks = {pool.submit(self._fetch, blob, stopped) for blob in self._blobs}
            try:
                while tasks:
                    done, tasks = wait(tasks, REPORT_S, FIRST_EXCEPTION)
                    for task in done:
                        task.result()
                    download = tell()
                    if time.monotonic() - logged >= LOG_S:
                        logged = time.monotonic()
                        log.info("downloading %s: %s", self._alias, progress_text(download))
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        came = size_text(download.done_bytes - first.done_bytes)
        log.info("downloaded %s: %s in %.0f s", self._alias, came, time.monotonic() - begun)

    @property
    def _done(self) -> int:
        return self._present + sum(blob.held() for blob in self._blobs)

    def _fetch(self, blob: Blob, stopped: threading.Event) -> None:
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(blob, stopped):
            if not blob.path.exists():
                fetch(blob, _open, stopped, hashed=self._count)

    def _count(self, hashed: int) -> None:
        with self._counting:
            self._hashed += hashed


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
    # By the Hub's own URL each time: the one that it redirects to is signed, and only for a while.
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        yield response
