"""Where a model's files are: a folder, or a repository of the Hugging Face Hub (downloaded once).

Rules: a path that starts like one (./, ../, / or ~) is a folder and nothing else; whatever goes wrong
is a ``LoadError`` of one line that names the configuration key, the model and the remedy; an answer of
the Hub that will not change (401, 403, 404) and a Hub that can't be reached fail at once.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from contracts.control import Phase
from workers.engine import LoadError, Report
from workers.thread import first_line

VLM_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja")
_TOKEN_HELP = "set HF_TOKEN (or run `hf auth login`)"


def locate(
    path: str,
    alias: str,
    *,
    patterns: tuple[str, ...],
    report: Report,
    revision: str | None = None,
) -> Path:
    """The folder that holds the model *path* of *alias*, after downloading what *patterns* name.

    Raises ``LoadError``. Without a connection a complete earlier download serves.
    """
    key = f"models.{alias}.path"
    if path.startswith(("./", "../", "/", "~")):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise LoadError(f"{key}: {folder} {what}")
        return folder
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            path,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=_progress_class(report),
        )
    except LoadError:
        raise
    except Exception as exc:  # the Hub's, httpx's, the file system's
        raise LoadError(f"{key}: {_reason(exc, path)}") from exc
    return Path(found)


def _reason(exc: Exception, path: str) -> str:
    from huggingface_hub import errors

    if isinstance(exc, errors.HFValidationError):
        return (
            f"{path!r} is neither a Hugging Face id (organisation/name) nor a folder"
            " (those start with ./, ../, / or ~)"
        )
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


def _progress_class(report: Report) -> type[Any]:
    """A stand-in for tqdm that tells *report* how far the download is."""
    from tqdm.auto import tqdm

    lock = threading.Lock()
    last = [-1]

    class Progress(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Two bars count bytes, one files. The one that counts what is on disk matters.
            self._counts = kwargs.get("unit") == "B" and "Reconstruct" in kwargs.get("desc", "")
            self._done = float(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                self._done += n or 0
                total = self.total or 0
                if self._counts and total:
                    permille = min(1000, int(1000 * self._done / total))
                    if permille != last[0]:
                        last[0] = permille
                        # To the tenth: a manager takes a standstill for the end of the load.
                        report(Phase.DOWNLOADING, f"{permille / 10} %")
            return None

    return Progress
