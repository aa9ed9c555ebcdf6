"""Queries to the Hub about a repository: the commit of a revision, the files of a commit; error
messages.

Rules: each query has a time limit that includes name resolution, so a network that drops packets costs
seconds. Temporary failures (429, 5xx) are retried only if no snapshot on the disk can be used. Messages
name the model, the reason and the remedy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from workers.engine import LoadError
from workers.hub.resume import RETRYABLE, Damaged
from workers.serving.model_thread import first_line

log = logging.getLogger(__name__)

ANSWER_S = 5.0  # for all queries together, if a snapshot on the disk can be used instead
PATIENT_S = 15.0  # for each query, otherwise
PAUSES_S = (1.0, 2.0, 4.0)  # before a retry
_LONGEST_PAUSE_S = 20.0  # up to which ``Retry-After`` is followed
TOKEN_HELP = "set HF_TOKEN (or run `hf auth login`)"

_NO_ANSWER = "no answer"
_Answer = TypeVar("_Answer")


class NoAnswer(Exception):
    """The Hub did not answer in time."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a commit. ``etag`` is its hash, and the name of its blob in the cache."""

    name: str
    size: int
    etag: str


class Remote:
    """Queries about repository *path*. *patient*: no snapshot on the disk can be used instead."""

    def __init__(
        self, path: str, *, patient: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._patient = patient
        self._clock = clock
        self._ends = clock() + ANSWER_S

    def commit(self, revision: str) -> str:
        """The current commit of *revision*. Raises the Hub's errors, httpx's and ``NoAnswer``."""
        from huggingface_hub import HfApi

        info = self._query(
            lambda limit_s: HfApi().model_info(self._path, revision=revision, timeout=limit_s)
        )
        return str(info.sha)

    def tree(self, commit: str) -> dict[str, Any]:
        """The files of *commit*, in the form that huggingface_hub saves. Raises as ``commit`` does."""
        from huggingface_hub import HfApi
        from huggingface_hub._tree_cache import TreeCacheEntry
        from huggingface_hub.hf_api import RepoFile

        def ask(limit_s: float) -> dict[str, Any]:
            listed = HfApi().list_repo_tree(self._path, recursive=True, revision=commit)
            return {
                file.path: TreeCacheEntry(
                    size=file.size,
                    blob_id=file.blob_id,
                    lfs_sha256=file.lfs.sha256 if file.lfs is not None else None,
                    lfs_size=file.lfs.size if file.lfs is not None else None,
                    xet_hash=file.xet_hash,
                )
                for file in listed
                if isinstance(file, RepoFile)
            }

        return self._query(ask)

    def _query(self, question: Callable[[float], _Answer]) -> _Answer:
        pauses = iter(PAUSES_S if self._patient else ())
        while True:
            limit_s = PATIENT_S if self._patient else max(0.1, self._ends - self._clock())
            try:
                return within(limit_s, lambda limit_s=limit_s: question(limit_s))  # type: ignore[misc]
            except httpx.HTTPError as exc:
                response = getattr(exc, "response", None)
                pause_s = next(pauses, None)
                if pause_s is None or response is None or response.status_code not in RETRYABLE:
                    raise
                pause_s = max(pause_s, _retry_after_s(response))
                log.warning(
                    "%s: the Hub returned status %d; retrying in %g s",
                    self._path,
                    response.status_code,
                    pause_s,
                )
                time.sleep(pause_s)


def within(limit_s: float, call: Callable[[], _Answer]) -> _Answer:
    """The result of *call*, or its exception; ``NoAnswer`` if it takes longer than *limit_s*.

    It runs in a thread, which is abandoned after the limit: neither name resolution nor a server that
    sends a byte now and then can be bounded otherwise.
    """
    answers: queue.SimpleQueue[tuple[_Answer | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as exc:
            answers.put((None, exc))

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        answer, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise NoAnswer(_NO_ANSWER) from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


def files_of(tree: dict[str, Any]) -> list[File]:
    """The files of a *tree*. The etag of a large file is its SHA-256, of others their git blob's
    hash."""
    return [File(name, entry.size, entry.lfs_sha256 or entry.blob_id) for name, entry in tree.items()]


def _retry_after_s(response: Any) -> float:
    with contextlib.suppress(ValueError):
        return min(_LONGEST_PAUSE_S, float(response.headers.get("retry-after", 0)))
    return 0.0


# --- messages ------------------------------------------------------------------------------------


def unusable(exc: Exception, path: str) -> str:
    """One line: why *path* cannot be loaded because of *exc*, and the remedy."""
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
    status = _status(exc)
    if isinstance(exc, errors.GatedRepoError):
        return f"{path} is gated: accept its licence at https://huggingface.co/{path} and {TOKEN_HELP}"
    if isinstance(exc, errors.RevisionNotFoundError):
        return f"{path} does not have this revision on the Hugging Face Hub"
    if isinstance(exc, errors.RepositoryNotFoundError) or status == 404:
        # The Hub does not reveal whether a private repository exists.
        return f"{path} is not on the Hugging Face Hub, or is private; check the name, or {TOKEN_HELP}"
    if status in (401, 403):
        return (
            f"the Hugging Face Hub refuses {path} (status {status}):"
            f" {TOKEN_HELP} with a token that may read it"
        )
    return (
        f"{path} is not downloaded yet and the Hugging Face Hub is unavailable"
        f" ({why_unavailable(exc)}); a private or gated model also needs HF_TOKEN"
    )


def why_unavailable(exc: Exception) -> str:
    """Why the Hub could not be used, in a few words."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE"):
        return "HF_HUB_OFFLINE is set"
    status = _status(exc)
    if isinstance(exc, errors.GatedRepoError):
        return "the repository is gated"
    if status == 429:
        return "status 429: too many requests from this address; wait some minutes, or set HF_TOKEN"
    if status is not None and status >= 500:
        return f"status {status}: a fault of the Hub's; try again later"
    if status is not None:
        return f"status {status}"
    return _NO_ANSWER if isinstance(exc, httpx.TimeoutException) else first_line(exc)


def _status(exc: Exception) -> int | None:
    status: int | None = getattr(getattr(exc, "response", None), "status_code", None)
    return status


def failed(key: str, exc: Exception, path: str) -> LoadError:
    return LoadError(f"{key}: {unusable(exc, path)}")
