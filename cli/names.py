"""What the files of drawn pictures are called. Pure, but for asking what is there already.

Rules: a name that was given is written over, one that was made up never is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

from cli.failures import UsageError
from contracts.wire.images import OutputFormat

FORMATS: dict[str, OutputFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
_WORDS = 40  # characters of a prompt in a file's name


def format_of(out: Path | None) -> OutputFormat:
    """The format that the end of *out* asks for; PNG when it is a folder, stdout or none."""
    if out is None or str(out) == "-" or out.is_dir():
        return "png"
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        raise UsageError(f"{out}: a picture's name ends with one of {', '.join(FORMATS)}")
    return found


def check_writable(out: Path | None, n: int) -> None:
    """Raise ``UsageError`` before minutes of drawing for a place that doesn't exist."""
    if out is None or out.is_dir():
        return
    if str(out) == "-":
        if n > 1:
            raise UsageError("'-o -' takes one picture; leave out -n, or name a file")
    elif not out.parent.is_dir():
        raise UsageError(f"{out.parent}: there is no such folder")


def file_for(
    out: Path | None, prompt: str, seed: int, index: int, n: int, exists: Callable[[Path], bool]
) -> Path:
    """Where picture *index* of *n* goes: ``out-2.png``; ``a-red-circle-7.png`` without an *out*."""
    if out is not None and not out.is_dir():
        return out if n == 1 else out.with_name(f"{out.stem}-{index + 1}{out.suffix}")
    folder = out or Path()
    stem = f"{slug(prompt)}-{seed}"
    numbered = (f"{stem}-{number}.png" for number in itertools.count(2))
    names = itertools.chain([f"{stem}.png"], numbered)
    return next(path for name in names if not exists(path := folder / name))


def slug(prompt: str) -> str:
    """The first words of *prompt* as part of a file's name, letters of all scripts."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    if len(words) > _WORDS:
        head, dash, _ = words[: _WORDS + 1].rpartition("-")
        words = head if dash else words[:_WORDS]
    return words or "picture"
