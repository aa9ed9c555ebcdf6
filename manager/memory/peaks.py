"""The most memory that each model has been seen to take, kept on disk from run to run.

Rules: the file is a help, never a condition. Damaged in whatever way, it is put aside with one warning
and learning starts afresh; a disk that takes nothing costs one warning and the memory copy goes on. An
entry of an unknown shape is dropped alone. The file is replaced as a whole, so that a crash leaves the
old or the new one. All sizes are bytes.
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

log = logging.getLogger(__name__)

VERSION = 1
LARGEST = 1 << 46  # bytes; no machine has 64 TiB, so what is larger is not a measurement
WORTH_LEARNING = 1.01  # a peak that grew by less is the same peak
_FILE_LIMIT = 1 << 20  # bytes; thousands of models


@dataclass(frozen=True, slots=True)
class Peak:
    bytes: int
    learned_at: float  # Unix seconds
    large: bool = False  # it includes a picture of substantial size (``large_picture`` of the settings)


class Damaged(ValueError):
    """The file can't be believed; the message says why."""


def peak_key(model: VlmSettings | ImageSettings) -> str:
    """What decides how much memory a model takes. Two aliases of one model share their peak."""
    quantize, family = None, None
    if isinstance(model, ImageSettings):
        quantize, family = model.quantize, model.family
        if model.residency == "lean":  # holds far less, and must not be counted as if it did not
            family = f"{family}|lean"
    return f"{model.path}|{quantize or '-'}|{family or '-'}"


class Peaks:
    """Read at construction; ``learn`` changes the memory copy, ``save`` writes it if it changed.

    Without a *file* everything is forgotten at the end. ``save`` waits for the disk and may be called
    from a thread.
    """

    def __init__(self, file: Path | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._wall_clock = wall_clock
        self._peaks: dict[str, Peak] = {}
        self._saving = threading.Lock()
        self._changed = False
        self._warned = False  # that nothing can be saved
        if file is not None:
            self._load(file)

    def __repr__(self) -> str:
        return f"<Peaks of {len(self._peaks)} models in {self._file}>"

    def get(self, key: str) -> Peak | None:
        return self._peaks.get(key)

    def learn(self, key: str, bytes_: int, *, large: bool = False) -> bool:
        """Take in a measurement; True when it changed what is known of *key*. A peak only grows.

        *large*: the process that was measured has served a large picture.
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
        """Write what was learned since the last time; never raises."""
        with self._saving:
            if self._file is None or not self._changed:
                return
            self._changed = False  # before the copy: what is learned from here on is saved next time
            try:
                replace_file(self._file, render(dict(self._peaks)))
            except (OSError, ValueError) as exc:
                self._changed = True
                if not self._warned:
                    log.warning("%s: learned memory is not being kept: %s", self._file, exc)
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
            _put_aside(file, aside)
            log.warning("%s: put aside as %s, memory is learned afresh: %s", file, aside.name, exc)


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
        raise Damaged("not a file of peaks")
    if whole.get("version") != VERSION:
        raise Damaged("of another version")
    if whole.get("checksum") != _checksum(entries):
        raise Damaged("its checksum is wrong")
    return {key: peak for key, entry in entries.items() if (peak := _peak(entry))}


def _peak(entry: Any) -> Peak | None:
    if not isinstance(entry, dict):
        return None
    # A file of an earlier version does not say which work its peaks are of: then a text, for safety.
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
    # A pipe in its place must not hang the start.
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged("not a regular file")
        with open(fd, "rb", closefd=False) as opened:
            content = opened.read(_FILE_LIMIT + 1)
    finally:
        os.close(fd)
    if len(content) > _FILE_LIMIT:
        raise Damaged("much too large")
    return content


def _put_aside(file: Path, aside: Path) -> None:
    """What can't be put aside is overwritten by the next save, or keeps refusing it."""
    with contextlib.suppress(OSError, ValueError):
        try:
            os.replace(file, aside)
        except OSError:  # such as a folder over the file of last time
            aside.unlink()
            os.replace(file, aside)


def replace_file(file: Path, content: bytes) -> None:
    """Write *content* so that a crash leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.tmp")
    try:
        with open(fresh, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(fresh, file)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
