"""Where a model's files are: a folder, or a repository of the Hugging Face Hub (downloaded once).

Rules: a path that starts like one (./, ../, / or ~) is a folder and nothing else; whatever goes wrong
is a ``LoadError`` of one line that names the configuration key, the model and the remedy; an answer of
the Hub that will not change (401, 403, 404) and a Hub that can't be reached fail at once; no byte of a
model is fetched that the disk has no room for. The cache is huggingface_hub's own, with its names and
locks: processes that want the same file wait for the one that fetches it.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from contracts.control import Download, Phase
from workers.engine import LoadError, Report
from workers.hub.download_meter import DownloadMeter, progress_text, size_text
from workers.hub.resume import Blob, Damaged, Stopped, fetch
from workers.serving.model_thread import first_line

log = logging.getLogger(__name__)

VLM_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja")
KEPT_FREE_BYTES = 1 << 30  # of the disk, after the download
REPORT_S = 0.25
LOG_S = 10.0
_AT_ONCE = 4  # files
_LOCK_S = 0.5  # between looks at whether somebody else's download has ended, or ours is not wanted
_TOKEN_HELP = "set HF_TOKEN (or run `hf auth login`)"


def free_bytes(folder: Path) -> int:
    """The free bytes where *folder* is, or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def is_folder(path: str) -> bool:
    """Does *path* mean a folder? Else it is the id of a repository."""
    return path.startswith(("./", "../", "/", "~"))


def locate(
    path: str,
    alias: str,
    *,
    patterns: tuple[str, ...],
    report: Report,
    revision: str | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """The folder that holds the model *path* of *alias*, after downloading what *patterns* name.

    Raises ``LoadError``. Without a connection a complete earlier download serves. *report* is called
    only when there is something to fetch, at most four times a second, last when all is there; what it
    raises ends the download.
    """
    key = f"models.{alias}.path"
    if is_folder(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise LoadError(f"{key}: {folder} {what}")
        return folder
    try:
        return _downloaded(path, revision, patterns, report, free)
    except _NoRoom as exc:
        raise LoadError(f"{key}: {path} {exc}") from exc
    except LoadError:
        raise
    except Exception as exc:  # the Hub's, httpx's, the file system's
        raise LoadError(f"{key}: {_reason(exc, path)}") from exc


class _NoRoom(Exception):
    """The disk has no room for the rest; the message says how much is missing."""


def _downloaded(
    path: str,
    revision: str | None,
    patterns: tuple[str, ...],
    report: Report,
    free: Callable[[Path], int],
) -> Path:
    from huggingface_hub import constants, snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "tqdm_class": _silent_bar()}
    try:
        files = snapshot_download(path, revision=revision, dry_run=True, **wanted)
    except Exception:
        with suppress(Exception):
            return Path(snapshot_download(path, revision=revision, local_files_only=True, **wanted))
        raise  # why the Hub is of no help, not that it is needed
    missing = [file for file in files if file.will_download]
    if missing:
        blobs = _blobs(path, missing)
        cache = Path(constants.HF_HUB_CACHE)
        needed = sum(blob.size - blob.held() for blob in blobs)
        if needed + KEPT_FREE_BYTES > (there := free(cache)):
            raise _NoRoom(
                f"needs {size_text(needed)} more; only {size_text(there)} are free in {cache}"
                f" ({size_text(KEPT_FREE_BYTES)} are kept free)"
            )
        present = sum(file.file_size or 0 for file in files if not file.will_download)
        _fetch_all(path, blobs, present, report)
    # Links what has been fetched; what is no ``Blob`` (larger than HTTP gives at once), it fetches.
    commit = files[0].commit_hash if files else revision
    return Path(snapshot_download(path, revision=commit, **wanted))


def _blobs(path: str, missing: Sequence[Any]) -> list[Blob]:
    """What must be fetched for the files *missing* (``DryRunFileInfo``); equal files are one."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="model") / "blobs"
    urls = [hf_hub_url(path, file.filename, revision=file.commit_hash) for file in missing]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        facts = list(pool.map(get_hf_file_metadata, urls))
    found = {
        fact.etag: Blob(f"{path}/{file.filename}", url, folder / fact.etag, fact.size)
        for file, url, fact in zip(missing, urls, facts, strict=True)
        if fact.etag and fact.size is not None and fact.size <= constants.MAX_HTTP_DOWNLOAD_SIZE
    }
    return list(found.values())


def _fetch_all(path: str, blobs: list[Blob], present: int, report: Report) -> None:
    """Fetch *blobs*, several at once; *present* bytes of the model are no concern."""
    total = present + sum(blob.size for blob in blobs)
    meter = DownloadMeter(total)
    begun = logged = time.monotonic()

    def tell() -> Download:
        download = meter.advanced(present + sum(blob.held() for blob in blobs), time.monotonic())
        # Moves while bytes come, and only then: a manager takes a standstill for the end of the load.
        report(Phase.DOWNLOADING, progress_text(download), download)
        return download

    first = download = tell()
    log.info("downloading %s: %s", path, progress_text(first))
    stopped = threading.Event()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
        tasks = {pool.submit(_fetch, blob, stopped) for blob in blobs}
        try:
            while tasks:
                done, tasks = wait(tasks, REPORT_S, FIRST_EXCEPTION)
                for task in done:
                    task.result()
                download = tell()
                if time.monotonic() - logged >= LOG_S:
                    logged = time.monotonic()
                    log.info("downloading %s: %s", path, progress_text(download))
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    came = size_text(download.done_bytes - first.done_bytes)
    log.info("downloaded %s: %s in %.0f s", path, came, time.monotonic() - begun)


def _fetch(blob: Blob, stopped: threading.Event) -> None:
    blob.path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(blob, stopped):
        if not blob.path.exists():
            fetch(blob, _open, stopped)


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


def _silent_bar() -> type[Any]:
    """A tqdm that shows nothing, whatever the environment says."""
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


def _reason(exc: Exception, path: str) -> str:
    from huggingface_hub import constants, errors

    if isinstance(exc, errors.HFValidationError):
        return (
            f"{path!r} is neither a Hugging Face id (organisation/name) nor a folder"
            " (those start with ./, ../, / or ~)"
        )
    if isinstance(exc, Damaged):
        return str(exc)
    if isinstance(exc, OSError) and exc.strerror:  # the Hub's errors are OSErrors without one
        where = constants.HF_HUB_CACHE if exc.filename is None else exc.filename
        return f"{path} can't be stored: {where}: {exc.strerror}"
    # "Not found locally" hides why the Hub was of no help: its cause tells.
    chain = [exc, exc.__cause__] if isinstance(exc.__cause__, Exception) else [exc]
    cause = chain[-1]
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if any(isinstance(error, errors.GatedRepoError) for error in chain):
        return f"{path} is gated: accept its licence at https://huggingface.co/{path} and {_TOKEN_HELP}"
    if any(isinstance(error, errors.RepositoryNotFoundError) for error in chain) or status == 404:
        # The Hub tells nobody whether a private repository exists.
        return f"{path} is not on the Hugging Face Hub, or is private; check the name, or {_TOKEN_HELP}"
    if status in (401, 403):
        return (
            f"the Hugging Face Hub refuses {path} (status {status}):"
            f" {_TOKEN_HELP} with a token that may read it"
        )
    why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else first_line(cause)
    return (
        f"{path} is not downloaded yet and the Hugging Face Hub is of no help ({why});"
        " a private or gated model also needs HF_TOKEN"
    )
