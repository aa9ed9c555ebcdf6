"""Finds a model's files: in a folder, or in a repository of the Hugging Face Hub, downloaded once.

Rules: a path that starts with ./, ../, / or ~ is a folder. Every failure is a ``LoadError`` of one line
that names the settings key, the model and the remedy. A complete snapshot on the disk is used whatever
the Hub responds, and until a newer one is complete. If the revision is a commit and its files are on
the disk, the Hub is not queried.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from contracts.revisions import DEFAULT, Revision
from contracts.settings.models import is_folder
from workers.engine import LoadError, Located, Report
from workers.hub import remote
from workers.hub.fetch import DiskFull, Fetch
from workers.hub.remote import Remote, files_of, why_unavailable
from workers.hub.snapshots import FilePatterns, Snapshots, missing_file

log = logging.getLogger(__name__)

VLM_FILES = FilePatterns(
    ("*.json", "*.jsonl", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja"),
    # Second copies of the weights, in their authors' layout or other formats.
    ignored=("consolidated*.safetensors", "*/*.safetensors"),
    required=("config.json", "*.safetensors"),
)
TOKENIZER_FILES = replace(VLM_FILES, required=("tokenizer.json",))


def free_bytes(folder: Path) -> int:
    """The free bytes on the disk where *folder* is, or will be."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def locate(
    path: str,
    alias: str,
    *,
    wanted: FilePatterns,
    report: Report,
    revision: Revision = DEFAULT,
    newest: bool = False,
    free: Callable[[Path], int] = free_bytes,
) -> Located:
    """The folder of the model *path* of *alias*, with its *wanted* files, downloaded if necessary.

    Raises ``LoadError``. *newest*: download the Hub's current files even if an older snapshot could be
    used. *report* is called only if something is downloaded, at most four times a second, and with
    ``Phase.LOADING`` at the end; an exception that it raises ends the download.
    """
    key = f"models.{alias}.path"
    if is_folder(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise LoadError(f"{key}: {folder} {what}")
        return Located(folder)
    try:
        return _Search(path, alias, wanted, revision, report, free).locate(newest)
    except (DiskFull, _Unfit) as exc:
        raise LoadError(f"{key}: {path} {exc}") from exc
    except LoadError:
        raise
    except Exception as exc:  # the Hub's, httpx's, the file system's
        raise remote.failed(key, exc, path) from exc


class _Unfit(Exception):
    """The repository has no loadable model. The message says what is missing."""


class _Search:
    """One search for the files of repository *path*."""

    def __init__(
        self,
        path: str,
        alias: str,
        wanted: FilePatterns,
        revision: Revision,
        report: Report,
        free: Callable[[Path], int],
    ) -> None:
        self._path, self._alias = path, alias
        self._wanted, self._revision = wanted, revision
        self._report, self._free = report, free
        self._snapshots = Snapshots(path)

    def locate(self, newest: bool) -> Located:
        revision, snapshots = self._revision, self._snapshots
        if revision.is_commit and snapshots.surely_complete(revision.name, self._wanted):
            return self._at(revision.name)
        usable, missing = snapshots.usable(revision, self._wanted)
        remote = Remote(self._path, patient=not usable or newest)
        try:
            revision, commit = self._commit(remote)
            tree = snapshots.tree(commit) or remote.tree(commit)
        except Exception as exc:
            if usable:
                log.warning(
                    "%s: the Hub is unavailable (%s); using the snapshot on the disk (%s)",
                    self._path,
                    why_unavailable(exc),
                    usable[:8],
                )
                return self._at(usable)
            if missing and not _is_refusal(exc):
                raise _Unfit(
                    f"is only partly downloaded ({missing} is missing), and the Hugging Face Hub is"
                    f" unavailable ({why_unavailable(exc)})"
                ) from exc
            raise
        return self._complete(revision, commit, tree, remote, "" if newest else usable)

    def _commit(self, remote: Remote) -> tuple[Revision, str]:
        """The revision and its current commit. A preferred revision that does not exist becomes
        main."""
        from huggingface_hub.errors import RevisionNotFoundError

        revision = self._revision
        if revision.is_commit:
            return revision, revision.name
        try:
            return revision, remote.commit(revision.name)
        except RevisionNotFoundError:
            if revision.required or revision == DEFAULT:
                raise
            log.warning("%s has no revision %s; using main", self._path, revision.name)
            return DEFAULT, remote.commit(DEFAULT.name)

    def _complete(
        self, revision: Revision, commit: str, tree: dict[str, object], remote: Remote, usable: str
    ) -> Located:
        """The snapshot of *commit*, downloaded if necessary; the *usable* one if it can be used."""
        snapshots, files = self._snapshots, self._wanted.select(files_of(tree))
        self._require_fit([file.name for file in files], list(tree))
        missing = [file for file in files if not snapshots.has(commit, file)]
        if missing and usable not in ("", commit) and self._is_complete(usable, remote):
            log.warning(
                "%s: %s is now at commit %s; using commit %s on the disk until it is downloaded",
                self._path,
                revision.name,
                commit[:8],
                usable[:8],
            )
            return self._at(usable, newer=commit)
        snapshots.save_tree(commit, tree)
        if missing:
            present = sum(file.size for file in files if snapshots.has(commit, file))
            fetch = Fetch(self._path, self._alias, commit, missing, present, snapshots)
            fetch.run(self._report, self._free)
            for file in missing:
                snapshots.link(commit, file)
        if not revision.is_commit:
            snapshots.set_ref(revision, commit)
        return self._at(commit)

    def _is_complete(self, commit: str, remote: Remote) -> bool:
        """Queries the Hub if the snapshot's list of files was not saved."""
        snapshots = self._snapshots
        if snapshots.tree(commit) is None:
            try:
                snapshots.save_tree(commit, remote.tree(commit))
            except Exception as exc:
                why = why_unavailable(exc)
                log.warning("%s: commit %s can't be checked: %s", self._path, commit[:8], why)
                return False
        return snapshots.surely_complete(commit, self._wanted)

    def _require_fit(self, names: list[str], all_names: list[str]) -> None:
        absent = self._wanted.missing(names)
        if not absent:
            return
        others = [
            name for name in all_names if name.endswith((".bin", ".gguf", ".pt", ".pth", ".onnx"))
        ]
        raise _Unfit(no_file(absent, others))

    def _at(self, commit: str, newer: str = "") -> Located:
        return Located(self._snapshots.path(commit), commit, newer)


def _is_refusal(exc: Exception) -> bool:
    """Did the Hub refuse, so that its reason is the message, rather than fail?"""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return status in (401, 403, 404)


def no_file(pattern: str, others: list[str]) -> str:
    """The message for a model without any file like *pattern* that has *others* instead."""
    text = f"has no {pattern}"
    if pattern.endswith(".safetensors"):
        text = "has no weights in the safetensors format"
        text += f" ({pattern})" if "/" in pattern else ""
        if others:
            text += f", only {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else "")
        text += "; choose a repository that has them, such as one of mlx-community"
    return text


def lacking_in_folder(folder: Path, wanted: FilePatterns) -> str:
    """What the model in *folder* lacks, as a phrase that follows its name; "" if nothing is found."""
    missing = missing_file(folder, wanted)
    if not missing:
        return ""
    if missing in wanted.required:
        names = sorted(
            file.name for file in folder.iterdir() if file.suffix in (".bin", ".gguf", ".pt")
        )
        return no_file(missing, names)
    return f"lacks {missing}"
