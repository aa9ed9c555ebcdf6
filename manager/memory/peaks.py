"""The peak of each model, the highest footprint measured, stored on disk across restarts.

Rules: the file is optional. A damaged file is moved aside with one warning, and learning starts again.
If the file cannot be written, there is one warning, and the peaks in memory remain valid. An unknown
entry is dropped alone. The file is replaced as a whole (``manager.atomic_file``). Sizes are bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.settings.models import ImageSettings, VlmSettings
from manager.atomic_file import replace_file

log = logging.getLogger(__name__)

VERSION = 1
LARGEST = 1 << 46  # bytes; no machine has 64 TiB, so larger values are not measurements
WORTH_LEARNING = 1.01  # a peak that grew by less is the same peak
_FILE_LIMIT = 1 << 20  # bytes; thousands of models


@dataclass(frozen=True, slots=True)
class Peak:
    bytes: int
    learned_at: float  # Unix seconds
    large: bool = (
        False  # it includes a large image (``large_image_pixels`` in contracts.settings.models)
    )


class Damaged(ValueError):
    """The file is damaged; the message says how."""


def peak_key(model: VlmSettings | ImageSettings) -> str:
    """The settings that decide the memory of a model, as one text. Aliases of one model share it."""
    quantize, family = None, None
    if isinstance(model, ImageSettings):
        quantize, family = model.quantize, model.family
        if model.residency == "lean":  # needs far less memory
            family = f"{family}|lean"
    return f"{model.path}|{quantize or '-'}|{family or '-'}"


class Peaks:
    """Reads the file at construction; ``learn`` changes the copy in memory, ``save`` writes changes.

    Without a *file*, nothing is stored. ``save`` waits for the disk and may be called in a thread.
    """

    def __init__(self, file: Path | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._wall_clock = wall_clock
        self._peaks: dict[str, Peak] = {}
        self._saving = threading.Lock()
        self._changed = False
        self._warned = False  # about a failed save
        if file is not None:
            self._load(file)

    def __repr__(self) -> str:
        return f"<Peaks of {len(self._peaks)} models in {self._file}>"

    def get(self, key: str) -> Peak | None:
        return self._peaks.get(key)

    def learn(self, key: str, bytes_: int, *, large: bool = False) -> bool:
        """Record a measurement; True when it changed the peak of *key*. A peak only grows.

        *large*: the measured process has served a large image.
        """
        if not 0 < bytes_ <= LARGEST:
            return False
        known = self._peaks.get(key)
        if known is not None:
            grew = bytes_ >= known.bytes * WORTH_LEARNING
            if not grew and (known.large or not large):
                return False
            bytes_, large = max(bytes_, known.bytes), large or known.large
        self._peaks[key] = Peak(bytes_, self._wall_clock(), large)
        self._changed = True
        return True

    def save(self) -> None:
        """Write the changes since the last save; never raises."""
        with self._saving:
            if self._file is None or not self._changed:
                return
            self._changed = False  # before the copy: later changes are saved next time
            try:
                replace_file(self._file, render(dict(self._peaks)))
            except (OSError, ValueError) as exc:
                self._changed = True
                if not self._warned:
                    log.warning("%s: learned peaks cannot be stored: %s", self._file, exc)
                self._warned = True
            else:
                self._warned = False

    def _load(self, file: Path) -> None:
        try:
            self._peaks = parse(_read(file))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as exc:
            aside = file.with_name(f"{file.name}.damaged")
            _move_aside(file, aside)
            log.warning("%s: damaged, moved to %s; peaks are learned again: %s", file, aside.name, exc)


def render(peaks: dict[str, Peak]) -> bytes:
    """The content of the file."""
    entries = {
        key: {"bytes": peak.bytes, "learned_at": peak.learned_at, "large": peak.large}
        for key, peak in peaks.items()
    }
    whole = {"version": VERSION, "checksum": _checksum(entries), "peaks": entries}
    return json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"


def parse(content: bytes) -> dict[str, Peak]:
    """The peaks in *content*; raises ``Damaged``."""
    try:
        whole = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise Damaged(f"not JSON: {exc}") from exc
    if not isinstance(whole, dict) or not isinstance(entries := whole.get("peaks"), dict):
        raise Damaged("not a peaks file")
    if whole.get("version") != VERSION:
        raise Damaged("unknown version")
    if whole.get("checksum") != _checksum(entries):
        raise Damaged("wrong checksum")
    return {key: peak for key, entry in entries.items() if (peak := _peak(entry))}


def _peak(entry: Any) -> Peak | None:
    if not isinstance(entry, dict):
        return None
    # Files of earlier versions lack "large"; assume that the peak does not include a large image.
    entry = {"large": False, **entry}
    if set(entry) != {"bytes", "learned_at", "large"} or type(entry["large"]) is not bool:
        return None
    size, learned_at = entry["bytes"], entry["learned_at"]
    if type(size) is not int or not 0 < size <= LARGEST:
        return None
    if type(learned_at) not in (int, float) or not 0 <= learned_at <= LARGEST:
        return None
    return Peak(size, float(learned_at), entry["large"])


def _checksum(entries: dict[str, Any]) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path) -> bytes:
    # Opening a pipe in its place must not hang the start.
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged("not a regular file")
        with open(fd, "rb", closefd=False) as opened:
            content = opened.read(_FILE_LIMIT + 1)
    finally:
        os.close(fd)
    if len(content) > _FILE_LIMIT:
        raise Damaged("too large")
    return content


def _move_aside(file: Path, aside: Path) -> None:
    """Move the file aside. If that fails, the next save overwrites it, or fails."""
    with contextlib.suppress(OSError, ValueError):
        try:
            os.replace(file, aside)
        except OSError:  # for instance, a folder cannot replace an older file
            aside.unlink()
            os.replace(file, aside)
