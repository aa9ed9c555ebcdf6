"""The quantized copy of a downloaded checkpoint: its place, its completeness, and how it is saved.

A 16-bit checkpoint with ``quantize`` in its settings would be quantized at each load, and a lean
model's text encoder for each new prompt. Instead, the first load saves the result and later loads read
it.

Rules: the copy is stored in the repository's own folder in Hugging Face's cache, so that it is removed
with the download. Its name has the commit, the bits and mflux's version; copies of other versions are
not read. It is complete or absent: it is written under another name, synced, then renamed. Only one
process writes. If it can't be written, the load logs a warning and continues.

Importing this module does not import MLX: ``Saver`` calls mflux's code on the model thread.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from contracts.amounts import size_text
from contracts.control import Phase
from contracts.settings.models import ImageSettings
from workers.engine import Report

log = logging.getLogger(__name__)

FOLDER = "vision-insight"  # beside blobs/ and snapshots/, which are Hugging Face's
KEPT_FREE_BYTES = 8 << 30  # left free on the disk for macOS to swap
_MANIFEST = "copy.json"  # written last: the size of every file
_PARTIAL = ".partial"


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of the snapshot *source* at *bits*; *folder* is where it is, or would be."""

    source: Path
    folder: Path
    bits: int

    def is_whole(self) -> bool:
        """Are all its files there, in full size?"""
        try:
            sizes = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
            return bool(sizes) and all(
                (self.folder / name).stat().st_size == size for name, size in sizes.items()
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False


def copy_of(source: Path, settings: ImageSettings) -> Copy | None:
    """The copy for the checkpoint in *source*; None if none is saved.

    For a folder outside the Hub's cache, which is the user's, nothing is written. LoRAs are merged into
    16-bit weights, so a model with LoRAs is quantized at each load.
    """
    bits = settings.quantize
    repository = source.parent.parent
    is_snapshot = source.parent.name == "snapshots" and repository.name.startswith("models--")
    if bits is None or not settings.save_quantized or settings.loras or not is_snapshot:
        return None
    return Copy(source, repository / FOLDER / f"{source.name}-{bits}bit{_version()}", bits)


def _version() -> str:
    return f"-mflux{metadata.version('mflux')}"


class Saver:
    """Writes *copy*, part by part, as a load computes the networks::

        with saver.writing(needed):
            for ...:
                saver.save(...)
            saver.finish()
        saver.saved

    Without disk space, if another process writes, and after a failed ``save``, all methods do nothing.
    An unfinished copy is removed.
    """

    def __init__(self, copy: Copy, report: Report) -> None:
        self.copy = copy
        self.saved = False
        self._report = report
        self._partial = copy.folder.with_name(copy.folder.name + _PARTIAL)
        self._needed = 0
        self._done = 0
        self._writing = False
        self._began = 0.0

    @contextmanager
    def writing(self, needed: int) -> Iterator[None]:
        """The block saves parts of *needed* bytes in total."""
        home = self.copy.folder.parent
        lock: int | None = None
        try:
            lock = self._attempt("begun", lambda: _locked(home))
            if lock is not None:
                self._attempt("begun", lambda: self._begin(home, needed))
            yield
        finally:
            if self._partial.exists() and lock is not None:
                shutil.rmtree(self._partial, ignore_errors=True)
            if lock is not None:
                os.close(lock)  # releases the lock

    def _begin(self, home: Path, needed: int) -> None:
        for leftover in home.glob(f"*{_PARTIAL}"):  # of a process that was killed
            shutil.rmtree(leftover)
        there, bits = free_bytes(home), self.copy.bits
        if needed + KEPT_FREE_BYTES > there:
            log.warning(
                "no %d-bit copy is saved, so each load quantizes again: it needs %s, %s are free in %s"
                " and %s must stay free (save_quantized: false disables this message)",
                bits, size_text(needed), size_text(there), home, size_text(KEPT_FREE_BYTES),
            )  # fmt: skip
            return
        log.info("saving a copy at %d bits to %s: %s", bits, self.copy.folder, size_text(needed))
        self._partial.mkdir()
        self._needed, self._writing, self._began = needed, True, time.monotonic()
        self._report_progress()

    @property
    def is_writing(self) -> bool:
        return self._writing

    def save(self, folder: str, network: Any, size: int) -> None:
        """Save *network*, whose weights are computed and have *size* bytes, as *folder* of the copy."""
        if not self._writing:
            return
        self._attempt("written", lambda: self._write(folder, network))
        self._done += size
        self._report_progress()

    def _write(self, folder: str, network: Any) -> None:
        from mflux.models.common.weights.saving.model_saver import ModelSaver

        ModelSaver._save_weights(str(self._partial), self.copy.bits, network, folder)
        for file in (self._partial / folder).iterdir():
            _sync(file)

    def finish(self) -> None:
        """Complete the copy."""
        if self._writing:
            self._attempt("finished", self._finish)

    def _finish(self) -> None:
        files = [file for file in sorted(self._partial.rglob("*")) if file.is_file()]
        sizes = {file.relative_to(self._partial).as_posix(): file.stat().st_size for file in files}
        manifest = self._partial / _MANIFEST
        manifest.write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
        _sync(manifest)
        target = self.copy.folder
        if target.exists():
            shutil.rmtree(target)
        self._partial.rename(target)
        _sync(target.parent)
        self.saved, self._writing = True, False
        took = time.monotonic() - self._began
        log.info("saved the %d-bit copy in %.0f s; later loads read it", self.copy.bits, took)
        for other in target.parent.iterdir():  # copies of other versions, which are not read
            if "-mflux" in other.name and not other.name.endswith(_version()):
                log.info("removing the outdated copy %s", other)
                shutil.rmtree(other, ignore_errors=True)

    def _attempt(self, done: str, act: Callable[[], Any]) -> Any:
        """The result of *act*; if it fails, None, a warning, and no more writing."""
        try:
            return act()
        except Exception as exc:  # of the disk or MLX
            self._writing = False
            log.warning(
                "the %d-bit copy %s can't be %s (%s: %s); the model loads without it",
                self.copy.bits, self.copy.folder, done, type(exc).__name__, exc,
            )  # fmt: skip
            return None

    def _report_progress(self) -> None:
        if self._writing:
            done, needed = size_text(self._done), size_text(self._needed)
            self._report(Phase.SAVING, f"{self.copy.bits} bits, {done} of {needed}")


def _locked(home: Path) -> int | None:
    """Lock *home* until the returned file is closed; None if another process writes."""
    home.mkdir(exist_ok=True)
    file = os.open(home / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        log.info("another process is saving a quantized copy in %s", home)
        return None
    except BaseException:
        os.close(file)
        raise
    return file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
