"""A worker in waiting: its imports are done, it has no port and no model; a line makes it a worker.

The imports are most of a cold start. A standby has them behind it: the manager writes one line of JSON
to its standard input, an ``Assignment``, and it goes on as if that had stood in its argv.
Rules: until the line comes it listens nowhere and a SIGTERM ends it at once; the end of its input ends
it, also while it imports; it reads no more than the one line (what ends a worker with its parent,
``web.parent_pipe``, reads on from there); a kind whose library is not installed is left out.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.settings.base import Port
from contracts.settings.file import SettingsError
from workers.backend import runtime

log = logging.getLogger(__name__)

KINDS = ("vlm", "image")  # also the names of the folders with the engines
LINE_LIMIT = 1 << 20  # bytes
_READ = 1 << 16  # bytes
# What server and routes import when they are first used; the engines know what they import.
_OURS = (
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
)


class Assignment(BaseModel):
    """What a standby is to become; the fields are the arguments of ``python -m workers``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    alias: str = Field(min_length=1)
    spec: str  # the settings of the model, as JSON
    host: str = "127.0.0.1"
    port: Port
    nonce: str = ""


def wait(kinds: Sequence[str], fd: int, on_end: Callable[[], None]) -> Assignment:
    """Import what the engines of *kinds* need, then wait for the line on *fd*.

    *on_end* is called, on another thread, when the input ends before that. Raises ``SettingsError``
    for a line that is no assignment. A line that comes early is taken when the imports are done.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        line = read_line(fd)
        if line is None:
            on_end()
        else:
            lines.put(line)

    threading.Thread(target=listen, name="standby", daemon=True).start()
    for kind in kinds:
        import_libraries(kind)
    for name in _OURS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a hundred thousand objects that stay: no collection need look at them again
    log.info("standby ready")
    return parse(lines.get())


def import_libraries(kind: str) -> None:
    """Import what an engine of *kind* imports to load and to answer."""
    runtime.prepare()
    engine = importlib.import_module(f"workers.{kind}.engine")
    try:
        for name in engine.LIBRARIES:
            importlib.import_module(name)
    except Exception as exc:  # some libraries raise other errors than ImportError
        log.warning("standby: the libraries of kind %s are left out: %s", kind, exc)


def read_line(fd: int) -> bytes | None:
    """The first line of *fd* without its end; None when the input ends before it."""
    line = b""
    # os.read: a buffered reader would keep what follows, and its lock, for itself.
    while b"\n" not in line:
        try:
            chunk = os.read(fd, _READ)
        except OSError:  # there is no input
            return None
        if not chunk:
            return None
        line += chunk
        if len(line) > LINE_LIMIT:
            break
    return line.partition(b"\n")[0]


def parse(line: bytes) -> Assignment:
    """The assignment in *line*; raises ``SettingsError``."""
    try:
        return Assignment.model_validate_json(line)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(f"standby: {where or 'the line'}: {problem['msg']}") from exc
