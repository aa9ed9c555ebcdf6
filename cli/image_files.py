"""File names and formats of generated images. Pure, except for checking which files exist.

Rules: a file that the user names is overwritten; a generated name never overwrites a file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

from cli.errors import UsageError
from contracts.wire.images import OutputFormat

FORMATS: dict[str, OutputFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
_SLUG = 40  # characters of a prompt in a file name


def format_of(out: Path | None) -> OutputFormat:
    """The format by the suffix of *out*; PNG for a folder, stdout or None."""
    if out is None or str(out) == "-" or out.is_dir():
        return "png"
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        raise UsageError(f"{out}: the name of an image ends with one of {', '.join(FORMATS)}")
    return found


def check_writable(out: Path | None, n: int) -> None:
    """Raise ``UsageError`` before the image is generated if it could not be written."""
    if out is None or out.is_dir():
        return
    if str(out) == "-":
        if n > 1:
            raise UsageError("'-o -' writes one image; omit -n, or name a file")
    elif not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder")


def file_for(
    out: Path | None, prompt: str, seed: int, index: int, n: int, exists: Callable[[Path], bool]
) -> Path:
    """The file of image *index* of *n*: ``out-2.png``, or ``a-red-circle-7.png`` without *out*."""
    if out is not None and not out.is_dir():
        return out if n == 1 else out.with_name(f"{out.stem}-{index + 1}{out.suffix}")
    folder = out or Path()
    stem = f"{slug(prompt)}-{seed}"
    numbered = (f"{stem}-{number}.png" for number in itertools.count(2))
    names = itertools.chain([f"{stem}.png"], numbered)
    return next(path for name in names if not exists(path := folder / name))


def slug(prompt: str) -> str:
    """The first words of *prompt* as part of a file name; keeps letters of all scripts."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    if len(words) > _SLUG:
        head, dash, _ = words[: _SLUG + 1].rpartition("-")
        words = head if dash else words[:_SLUG]
    return words or "image"
