"""Inputs of commands: files, URLs, stdin."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from cli.errors import UsageError
from contracts.media import sniff


class Stdin:
    """Standard input, which can be used once: for the text or for one image."""

    def __init__(self) -> None:
        self._used = False

    def text(self, argument: str) -> str:
        """*argument*, or the text on stdin if it is ``-``."""
        if argument != "-":
            return argument
        text = self.read().decode("utf-8", "replace").strip()
        if not text:
            raise UsageError("stdin is empty")
        return text

    def read(self) -> bytes:
        if self._used:
            raise UsageError("'-' can be used only once")
        self._used = True
        return sys.stdin.buffer.read()


def images_and_text(parts: list[str], *, least: int) -> tuple[list[str], str]:
    """The arguments of ``edit`` and ``ask``: images, then the text; raises ``UsageError``."""
    *images, text = parts
    if len(images) < least:
        raise UsageError('expected an image and then the text, such as: photo.jpg "what is this?"')
    if text != "-" and len(text) < 256 and "\n" not in text and Path(text).is_file():
        raise UsageError(f"the text is missing: {text} is a file")
    return images, text


def image_field(name: str, stdin: Stdin) -> str:
    """The image *name* for the API: a URL unchanged, a file or stdin as a data URI."""
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
        raise UsageError(f"{name}: not an image (PNG, JPEG, WebP, GIF, BMP, TIFF)")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
