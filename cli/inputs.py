"""What the user hands over: files, URLs, stdin; read once, and refused with its name."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from cli.failures import UsageError
from contracts.media import sniff


class Stdin:
    """It can be one thing only: the words or one picture."""

    def __init__(self) -> None:
        self._taken = False

    def words(self, text: str) -> str:
        """*text*, or what stdin says in its place when it is ``-``."""
        if text != "-":
            return text
        words = self.read().decode("utf-8", "replace").strip()
        if not words:
            raise UsageError("stdin is empty: no words came")
        return words

    def read(self) -> bytes:
        if self._taken:
            raise UsageError("'-' can stand once only: stdin is read already")
        self._taken = True
        return sys.stdin.buffer.read()


def pictures_and_words(parts: list[str], *, least: int) -> tuple[list[str], str]:
    """The arguments of ``edit`` and ``ask``: pictures, then the words; raises ``UsageError``."""
    *pictures, words = parts
    if len(pictures) < least:
        raise UsageError('expected a picture and then the words, such as: photo.jpg "what is this?"')
    if words != "-" and len(words) < 256 and "\n" not in words and Path(words).is_file():
        raise UsageError(f"the words are missing: {words} is a file")
    return pictures, words


def picture_field(name: str, stdin: Stdin) -> str:
    """The picture *name* as the API takes it: a URL as it is, all else as a data URI."""
    if name.startswith(("http://", "https://")):
        return name
    if name == "-":
        data = stdin.read()
    else:
        try:
            data = Path(name).expanduser().read_bytes()
        except OSError as exc:
            raise UsageError(f"{name}: cannot be read: {exc.strerror}") from exc
    kind = sniff(data)
    if kind is None:
        raise UsageError(f"{name}: is no picture (PNG, JPEG, WebP, GIF, BMP, TIFF)")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
