"""The snapshots of one Hub repository in huggingface_hub's cache, and which of them are complete.

Rules: a snapshot (``snapshots/<commit>``) is checked against the Hub's list of its files if that was
saved (``trees/``), otherwise against what a checkpoint must have. ``refs/<revision>`` moves only to a
complete snapshot, so an interrupted download takes nothing away. No network access here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from contracts.revisions import Revision
from workers.hub.remote import File, files_of

_INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class FilePatterns:
    """The files of a model within its repository, as shell patterns whose ``*`` also matches ``/``.

    Files that match *patterns* and none of *ignored* are downloaded. Each of *required* must match one.
    """

    patterns: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def select(self, files: Iterable[File]) -> list[File]:
        return [file for file in files if self.match(file.name)]

    def match(self, name: str) -> bool:
        return any(_matches(name, pattern) for pattern in self.patterns) and not any(
            _matches(name, pattern) for pattern in self.ignored
        )

    def missing(self, names: Sequence[str]) -> str:
        """The first of *required* that matches none of *names*; "" if there is none."""
        for pattern in self.required:
            if not any(fnmatch(name, pattern) for name in names if self.match(name)):
                return pattern
        return ""


def _matches(name: str, pattern: str) -> bool:
    # As in huggingface_hub: a folder stands for everything in it.
    return fnmatch(name, pattern + "*" if pattern.endswith("/") else pattern)


class Snapshots:
    """The cached snapshots of repository *path*; there may be none."""

    def __init__(self, path: str) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(path)
        self.cache = Path(constants.HF_HUB_CACHE)
        self.folder: Path = self.cache / repo_folder_name(repo_id=path, repo_type="model")

    def path(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, file: File) -> Path:
        return self.folder / "blobs" / file.etag

    def has(self, commit: str, file: File) -> bool:
        return self.path(commit).joinpath(*file.name.split("/")).exists()

    def tree(self, commit: str) -> dict[str, Any] | None:
        """The Hub's list of the files of *commit*, if it was saved."""
        from huggingface_hub._tree_cache import read_tree_cache

        tree: dict[str, Any] | None = read_tree_cache(str(self.folder), commit)
        return tree

    def save_tree(self, commit: str, tree: dict[str, Any]) -> None:
        from huggingface_hub._tree_cache import write_tree_cache

        write_tree_cache(str(self.folder), commit, tree)

    def missing(self, commit: str, files: FilePatterns) -> str:
        """A file that the snapshot of *commit* lacks; "" if it is complete, as far as is known."""
        folder = self.path(commit)
        if not folder.is_dir():
            return "its folder"
        tree = self.tree(commit)
        if tree is not None:
            absent = (f.name for f in files.select(files_of(tree)) if not self.has(commit, f))
            return next(absent, "")
        return missing_file(folder, files)

    def surely_complete(self, commit: str, files: FilePatterns) -> bool:
        """Is the snapshot of *commit* complete according to the Hub's list of its files?"""
        return self.tree(commit) is not None and not self.missing(commit, files)

    def usable(self, revision: Revision, files: FilePatterns) -> tuple[str, str]:
        """The commit of a complete snapshot for *revision*; otherwise "" and the likeliest one's
        missing file."""
        missing = ""
        for commit in self._candidates(revision):
            if not self.path(commit).is_dir():
                continue  # a ref to a commit that was never downloaded
            absent = self.missing(commit, files)
            if not absent:
                return commit, ""
            missing = missing or absent
        return "", missing

    def _candidates(self, revision: Revision) -> Iterator[str]:
        if revision.is_commit:
            yield revision.name
        with contextlib.suppress(OSError):
            yield (self.folder / "refs" / revision.name).read_text().strip()
        if not revision.required:
            with contextlib.suppress(OSError):
                found = [
                    (one.stat().st_mtime, one.name) for one in (self.folder / "snapshots").iterdir()
                ]
                yield from (name for _, name in sorted(found, reverse=True))

    def link(self, commit: str, file: File) -> None:
        """Add *file*, whose blob is in the cache, to the snapshot of *commit*."""
        from huggingface_hub.file_download import _create_symlink

        pointer = self.path(commit).joinpath(*file.name.split("/"))
        if not pointer.exists():
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)  # a link whose blob is gone
            _create_symlink(str(self.blob(file)), str(pointer), new_blob=False)

    def set_ref(self, revision: Revision, commit: str) -> None:
        """Point *revision* to the complete snapshot of *commit*."""
        from huggingface_hub.file_download import _cache_commit_hash_for_specific_revision

        with contextlib.suppress(OSError):  # a read-only cache works as well
            _cache_commit_hash_for_specific_revision(str(self.folder), revision.name, commit)


def missing_file(folder: Path, files: FilePatterns) -> str:
    """What the checkpoint in *folder* lacks, judged by its files alone; "" if nothing is found."""
    names = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or not files.match(name):
            continue
        if not file.exists():
            return name
        names.append(name)
        if name.endswith(_INDEX) and (shard := _missing_shard(file)):
            return shard
    return files.missing(names)


def _missing_shard(index: Path) -> str:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return ""  # the engine reports a damaged index
    absent = sorted(str(name) for name in shards if not (index.parent / str(name)).exists())
    # An index that names none of the files was left behind by a conversion.
    return absent[0] if 0 < len(absent) < len(shards) else ""
