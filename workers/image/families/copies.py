"""The quantized copy of a downloaded checkpoint: where it lies, whether it is whole, how it is written.

A checkpoint of 16 bits with ``quantize`` in its settings would be quantized at each load, and a lean
model's text encoder at each new prompt. The first load saves what it made; later loads read that.

Rules: the copy lies in the repository's own folder of Hugging Face's cache, so whatever removes the
download removes the copy. Its name holds the commit, the bits and mflux's version; a copy of another
version is never read. It is whole or absent: it is written under another name, synced, then renamed.
One process writes at a time. A copy that can't be written is a warning, never a failed load.

No MLX when imported: ``Saver`` calls mflux's code to write, on the model thread.
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
KEPT_FREE_BYTES = 8 << 30  # of the disk, after the copy: macOS swaps there
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
        """Is every file of it there, in its full size?"""
        try:
            sizes = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
            return bool(sizes) and all(
                (self.folder / name).stat().st_size == size for name, size in sizes.items()
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False


def copy_of(source: Path, settings: ImageSettings) -> Copy | None:
    """The copy that serves the checkpoint in *source*; None: none is to be made.

    A folder that is no download of the Hub is its owner's: nothing is written for it. LoRAs are baked
    into weights of 16 bits, so a model with LoRAs is quantized at each load.
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
    """Writes *copy*, part by part, as the networks of a load are computed::

        with saver.writing(needed):
            for ...:
                saver.save(...)
            saver.finish()
        saver.saved

    Where there is no room, where another process writes and after a failed ``save``, all do nothing.
    Nothing is left of a copy that was not finished.
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
        """For the time in which parts of *needed* bytes in all are saved."""
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
                os.close(lock)  # and the lock is gone with it

    def _begin(self, home: Path, needed: int) -> None:
        for leftover in home.glob(f"*{_PARTIAL}"):  # of a process that was killed
            shutil.rmtree(leftover)
        there, bits = free_bytes(home), self.copy.bits
        if needed + KEPT_FREE_BYTES > there:
            log.warning(
                "no %d-bit copy is saved, so each load quantizes anew: it takes %s, %s are free in %s"
                " and %s are to stay free (save_quantized: false ends this message)",
                bits, size_text(needed), size_text(there), home, size_text(KEPT_FREE_BYTES),
            )  # fmt: skip
            return
        log.info("saving a copy at %d bits to %s: %s", bits, self.copy.folder, size_text(needed))
        self._partial.mkdir()
        self._needed, self._writing, self._began = needed, True, time.monotonic()
        self._tell()

    @property
    def is_writing(self) -> bool:
        return self._writing

    def save(self, folder: str, network: Any, size: int) -> None:
        """*network*, whose weights are computed and have *size* bytes, as *folder* of the copy."""
        if not self._writing:
            return
        self._attempt("written", lambda: self._write(folder, network))
        self._done += size
        self._tell()

    def _write(self, folder: str, network: Any) -> None:
        from mflux.models.common.weights.saving.model_saver import ModelSaver

        ModelSaver._save_weights(str(self._partial), self.copy.bits, network, folder)
        for file in (self._partial / folder).iterdir():
            _sync(file)

    def finish(self) -> None:
        """The copy is whole from now on."""
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
        for other in target.parent.iterdir():  # made by another version, which nobody reads now
            if "-mflux" in other.name and not other.name.endswith(_version()):
                log.info("removing the outdated copy %s", other)
                shutil.rmtree(other, ignore_errors=True)

    def _attempt(self, done: str, act: Callable[[], Any]) -> Any:
        """What *act* returns; None, with a warning and no more writing, when it fails."""
        try:
            return act()
        except Exception as exc:  # the disk's, MLX's
            self._writing = False
            log.warning(
                "the %d-bit copy %s can't be %s (%s: %s); the model loads without it",
                self.copy.bits, self.copy.folder, done, type(exc).__name__, exc,
            )  # fmt: skip
            return None

    def _tell(self) -> None:
        if self._writing:
            done, needed = size_text(self._done), size_text(self._needed)
            self._report(Phase.SAVING, f"{self.copy.bits} bits, {done} of {needed}")


def _locked(home: Path) -> int | None:
    """Hold the lock of *home*, open as long as the file returned; None: another process writes."""
    home.mkdir(exist_ok=True)
    file = os.open(home / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        log.info("another process saves a quantized copy in %s", home)
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
