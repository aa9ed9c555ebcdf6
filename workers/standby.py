"""A standby worker: a process with the libraries imported that waits for a model to serve.

Imports are most of a cold start. The manager writes one line of JSON, an ``Assignment``, to a standby's
standard input; the process then continues as if the fields had been its arguments.
Rules: until then it has no port, and SIGTERM ends it at once. When its input closes it exits, even
while it imports. It reads exactly one line; ``web.parent_pipe`` reads the rest, to notice the parent's
exit. A kind whose library is not installed is left out.
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
# Modules that the server and the routes import on first use; engines list theirs in ``LIBRARIES``.
_SERVER_MODULES = (
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
)


class Assignment(BaseModel):
    """The model that a standby will serve; the fields are arguments of ``python -m workers``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    alias: str = Field(min_length=1)
    spec: str  # the settings of the model, as JSON
    host: str = "127.0.0.1"
    port: Port
    nonce: str = ""


def wait(kinds: Sequence[str], fd: int, on_end: Callable[[], None]) -> Assignment:
    """Import the libraries of *kinds*, then wait for the assignment on *fd*.

    *on_end* is called on another thread if the input closes first. Raises ``SettingsError`` for an
    invalid line. A line that arrives early is used when the imports are done.
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
    for name in _SERVER_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a hundred thousand permanent objects: collections skip them
    log.info("standby ready")
    return parse(lines.get())


def import_libraries(kind: str) -> None:
    """Import the libraries with which an engine of *kind* loads and runs."""
    runtime.prepare()
    engine = importlib.import_module(f"workers.{kind}.engine")
    try:
        for name in engine.LIBRARIES:
            importlib.import_module(name)
    except Exception as exc:  # some libraries raise other errors than ImportError
        log.warning("standby: libraries of kind %s not imported: %s", kind, exc)


def read_line(fd: int) -> bytes | None:
    """The first line of *fd* without its line feed; None if the input closes before that."""
    line = b""
    # os.read: a buffered reader would consume what follows, and hold its lock.
    while b"\n" not in line:
        try:
            chunk = os.read(fd, _READ)
        except OSError:  # no input
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
        raise SettingsError(f"standby: {where or 'assignment'}: {problem['msg']}") from exc
