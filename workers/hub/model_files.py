"""Where a model's files are: a folder, or a repository of the Hugging Face Hub (downloaded once).

Rules: a path that starts like one (./, ../, / or ~) is a folder and nothing else; whatever goes wrong
is a ``LoadError`` of one line that names the configuration key, the model and the remedy. A whole copy
on the disk serves whatever the Hub says or fails to say, and stays in use until a newer one is whole.
A revision that is a commit needs no question once its files are there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from contracts.revisions import DEFAULT, Revision
from workers.engine import LoadError, Located, Report
from workers.hub import remote
from workers.hub.copies import Copies, Wanted, lacking
from workers.hub.fetch import Fetch, NoRoom
from workers.hub.remote import Remote, files_of, no_help

log = logging.getLogger(__name__)

VLM_FILES = Wanted(
    ("*.json", "*.jsonl", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja"),
    # The same weights once more: as their maker keeps them, or in other formats.
    ignored=("consolidated*.safetensors", "*/*.safetensors"),
    needed=("config.json", "*.safetensors"),
)
TOKENIZER_FILES = replace(VLM_FILES, needed=("tokenizer.json",))


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
    wanted: Wanted,
    report: Report,
    revision: Revision = DEFAULT,
    newest: bool = False,
    free: Callable[[Path], int] = free_bytes,
) -> Located:
    """The folder that holds the model *path* of *alias*, after downloading what is *wanted* of it.

    Raises ``LoadError``. *newest*: fetch what the Hub has now even where an older copy could serve.
    *report* is called only when there is something to fetch, at most four times a second, last when all
    is there; what it raises ends the download.
    """
    key = f"models.{alias}.path"
    if is_folder(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise LoadError(f"{key}: {folder} {what}")
        return Located(folder)
    try:
        return _Search(path, alias, wanted, revision, report, free).found(newest)
    except NoRoom as exc:
        raise LoadError(f"{key}: {path} {exc}") from exc
    except _Unfit as exc:
        raise LoadError(f"{key}: {path} {exc}") from exc
    except LoadError:
        raise
    except Exception as exc:  # the Hub's, httpx's, the file system's
        raise remote.failed(key, exc, path) from exc


class _Unfit(Exception):
    """The repository holds no model that can be loaded; the message says what is missing."""


class _Search:
    """One search for the files of repository *path*."""

    def __init__(
        self,
        path: str,
        alias: str,
        wanted: Wanted,
        revision: Revision,
        report: Report,
        free: Callable[[Path], int],
    ) -> None:
        self._path, self._alias = path, alias
        self._wanted, self._revision = wanted, revision
        self._report, self._free = report, free
        self._copies = Copies(path)

    def found(self, newest: bool) -> Located:
        revision, copies = self._revision, self._copies
        if revision.is_commit and copies.surely_whole(revision.name, self._wanted):
            return self._at(revision.name)
        usable, lacks = copies.usable(revision, self._wanted)
        remote = Remote(self._path, patient=not usable or newest)
        try:
            revision, commit = self._commit(remote)
            tree = copies.tree(commit) or remote.tree(commit)
        except Exception as exc:
            if usable:
                log.warning(
                    "%s: the Hub is of no help (%s); the copy on the disk is used (%s)",
                    self._path,
                    no_help(exc),
                    usable[:8],
                )
                return self._at(usable)
            if lacks and not _final(exc):
                raise _Unfit(
                    f"is downloaded in part only ({lacks} is missing), and the Hugging Face Hub is of"
                    f" no help ({no_help(exc)})"
                ) from exc
            raise
        return self._of(revision, commit, tree, remote, "" if newest else usable)

    def _commit(self, remote: Remote) -> tuple[Revision, str]:
        """What the revision names now; a preference that the repository does not have is ``main``."""
        from huggingface_hub.errors import RevisionNotFoundError

        revision = self._revision
        if revision.is_commit:
            return revision, revision.name
        try:
            return revision, remote.commit(revision.name)
        except RevisionNotFoundError:
            if revision.required or revision == DEFAULT:
                raise
            log.warning("%s has no revision %s; main is used", self._path, revision.name)
            return DEFAULT, remote.commit(DEFAULT.name)

    def _of(
        self, revision: Revision, commit: str, tree: dict[str, object], remote: Remote, usable: str
    ) -> Located:
        copies, files = self._copies, self._wanted.of(files_of(tree))
        self._require_fit([file.name for file in files], list(tree))
        missing = [file for file in files if not copies.has(commit, file)]
        if missing and usable not in ("", commit) and self._is_whole(usable, remote):
            log.warning(
                "%s: %s is at commit %s now; commit %s on the disk serves until that is here",
                self._path,
                revision.name,
                commit[:8],
                usable[:8],
            )
            return self._at(usable, newer=commit)
        copies.keep_tree(commit, tree)
        if missing:
            present = sum(file.size for file in files if copies.has(commit, file))
            Fetch(self._path, self._alias, commit, missing, present, copies).run(
                self._report, self._free
            )
            for file in missing:
                copies.link(commit, file)
        if not revision.is_commit:
            copies.settle(revision, commit)
        return self._at(commit)

    def _is_whole(self, commit: str, remote: Remote) -> bool:
        """Asks the Hub about a copy whose list of files was not kept."""
        copies = self._copies
        if copies.tree(commit) is None:
            try:
                copies.keep_tree(commit, remote.tree(commit))
            except Exception as exc:
                log.warning("%s: commit %s can't be checked: %s", self._path, commit[:8], no_help(exc))
                return False
        return copies.surely_whole(commit, self._wanted)

    def _require_fit(self, names: list[str], all_names: list[str]) -> None:
        absent = self._wanted.absent(names)
        if not absent:
            return
        others = [
            name for name in all_names if name.endswith((".bin", ".gguf", ".pt", ".pth", ".onnx"))
        ]
        raise _Unfit(no_file(absent, others))

    def _at(self, commit: str, newer: str = "") -> Located:
        return Located(self._copies.snapshot(commit), commit, newer)


def _final(exc: Exception) -> bool:
    """Is *exc* an answer that says what to do, and not only that the Hub can't be asked?"""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return status in (401, 403, 404)


def no_file(pattern: str, others: list[str]) -> str:
    """Words for a model without any file like *pattern*, which has *others* instead."""
    text = f"has no {pattern}"
    if pattern.endswith(".safetensors"):
        text = "has no weights in the safetensors format"
        text += f" ({pattern})" if "/" in pattern else ""
        if others:
            text += f", only {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else "")
        text += "; choose a repository that has them, such as one of mlx-community"
    return text


def lacking_in_folder(folder: Path, wanted: Wanted) -> str:
    """What the model in *folder* lacks, in words that follow its name; "": nothing that is seen."""
    lack = lacking(folder, wanted)
    if not lack:
        return ""
    if lack in wanted.needed:
        names = sorted(
            file.name for file in folder.iterdir() if file.suffix in (".bin", ".gguf", ".pt")
        )
        return no_file(lack, names)
    return f"lacks {lack}"
