"""The copies of one Hub repository in huggingface_hub's cache: which there are, and which are whole.

Rules: a copy (``snapshots/<commit>``) is judged by the Hub's own list of its files where that was kept
(``trees/``), else by what a checkpoint must have; ``refs/<revision>`` moves only to a copy that is
whole, so a download that was cut takes nothing away. Nothing here asks the network.
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
class Wanted:
    """Which files of a repository a model consists of, by shell patterns whose ``*`` takes a ``/`` too.

    *patterns* are fetched but for those that *ignored* names. Each of *needed* must be there.
    """

    patterns: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def of(self, files: Iterable[File]) -> list[File]:
        return [file for file in files if self.takes(file.name)]

    def takes(self, name: str) -> bool:
        return any(map(name_matches(name), self.patterns)) and not any(
            map(name_matches(name), self.ignored)
        )

    def absent(self, names: Sequence[str]) -> str:
        """The first pattern of *needed* that none of *names* matches; "": there is none."""
        for pattern in self.needed:
            if not any(fnmatch(name, pattern) for name in names if self.takes(name)):
                return pattern
        return ""


def name_matches(name: str) -> Any:
    # As huggingface_hub reads a pattern: a folder means all that is in it.
    return lambda pattern: fnmatch(name, pattern + "*" if pattern.endswith("/") else pattern)


class Copies:
    """The copies of repository *path*. What is absent is no error."""

    def __init__(self, path: str) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(path)
        self.cache = Path(constants.HF_HUB_CACHE)
        self.folder: Path = self.cache / repo_folder_name(repo_id=path, repo_type="model")

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, file: File) -> Path:
        return self.folder / "blobs" / file.etag

    def has(self, commit: str, file: File) -> bool:
        return self.snapshot(commit).joinpath(*file.name.split("/")).exists()

    def tree(self, commit: str) -> dict[str, Any] | None:
        """The Hub's list of the files of *commit*, if it was kept."""
        from huggingface_hub._tree_cache import read_tree_cache

        tree: dict[str, Any] | None = read_tree_cache(str(self.folder), commit)
        return tree

    def keep_tree(self, commit: str, tree: dict[str, Any]) -> None:
        from huggingface_hub._tree_cache import write_tree_cache

        write_tree_cache(str(self.folder), commit, tree)

    def lacking(self, commit: str, wanted: Wanted) -> str:
        """A file that the copy of *commit* lacks; "": it is whole, as far as can be told."""
        folder = self.snapshot(commit)
        if not folder.is_dir():
            return "its folder"
        tree = self.tree(commit)
        if tree is not None:
            missing = (f.name for f in wanted.of(files_of(tree)) if not self.has(commit, f))
            return next(missing, "")
        return lacking(folder, wanted)

    def surely_whole(self, commit: str, wanted: Wanted) -> bool:
        """Whether the copy of *commit* is whole by the Hub's own list of its files."""
        return self.tree(commit) is not None and not self.lacking(commit, wanted)

    def usable(self, revision: Revision, wanted: Wanted) -> tuple[str, str]:
        """The commit of a whole copy for *revision*, else "" and what the likeliest copy lacks."""
        lacks = ""
        for commit in self._candidates(revision):
            lack = self.lacking(commit, wanted)
            if not lack:
                return commit, ""
            lacks = lacks or lack
        return "", lacks

    def _candidates(self, revision: Revision) -> Iterator[str]:
        if revision.is_commit:
            yield revision.name
        with contextlib.suppress(OSError):
            yield (self.folder / "refs" / revision.name).read_text().strip()
        if not revision.required:
            with contextlib.suppress(OSError):
                there = [
                    (one.stat().st_mtime, one.name) for one in (self.folder / "snapshots").iterdir()
                ]
                yield from (name for _, name in sorted(there, reverse=True))

    def link(self, commit: str, file: File) -> None:
        """Make *file*, whose blob is there, a part of the copy of *commit*."""
        from huggingface_hub.file_download import _create_symlink

        pointer = self.snapshot(commit).joinpath(*file.name.split("/"))
        if not pointer.exists():
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)  # a link whose blob is gone
            _create_symlink(str(self.blob(file)), str(pointer), new_blob=False)

    def settle(self, revision: Revision, commit: str) -> None:
        """The copy of *commit* is whole: it is what *revision* means from now on."""
        from huggingface_hub.file_download import _cache_commit_hash_for_specific_revision

        with contextlib.suppress(OSError):  # a cache that can only be read serves as well
            _cache_commit_hash_for_specific_revision(str(self.folder), revision.name, commit)


def lacking(folder: Path, wanted: Wanted) -> str:
    """What the checkpoint in *folder* lacks, judged by its files alone; "": nothing that is seen."""
    names = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or not wanted.takes(name):
            continue
        if not file.exists():
            return name
        names.append(name)
        if name.endswith(_INDEX) and (shard := _lacking_shard(file)):
            return shard
    return wanted.absent(names)


def _lacking_shard(index: Path) -> str:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return ""  # a damaged index is for the engine to tell
    absent = sorted(str(name) for name in shards if not (index.parent / str(name)).exists())
    # An index that names no file at all was left behind by a conversion.
    return absent[0] if 0 < len(absent) < len(shards) else ""
