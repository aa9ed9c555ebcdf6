"""Log lines: text for people or JSON for machines, to standard error or to a rotated file.

Rules: one record is one line, whatever a client sends. Unprintable characters are escaped, and each
line of a traceback is marked.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path
from typing import Any

from web.request_record import RequestRecord

_KEPT_FILES = 3  # rotated files, in addition to the current one
_TRACE = "  | "  # marks the further lines of a record


def printable(text: str) -> str:
    """*text* with all unprintable characters escaped: line ends, control characters, terminal
    sequences, direction marks and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LineFormatter(logging.Formatter):
    """``2026-11-26 10:00:00,123 INFO name: message``. Each second is formatted once."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second, self._text = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._text = time.strftime(self.default_time_format, time.localtime(second))
        return f"{self._text},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(_TRACE + printable(line) for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time`` (UTC), ``level``, ``logger``, and ``message`` or the fields of
    a ``RequestRecord``.
    """

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, RequestRecord):
            entry |= record.msg.fields()
        else:
            entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True)


def configure_logging(form: str = "pretty") -> None:
    """Log one line per event to standard error, as *form* "pretty" or "json". May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Do not collect what no line shows.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as its documentation advises
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # a client's malformed form is not an event of ours


def log_to_file(file: Path, max_mb: float) -> None:
    """Log to *file* from now on, in the current format. Raises ``OSError``.

    Python's own crash reports still go to standard error.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        file, maxBytes=int(max_mb * (1 << 20)), backupCount=_KEPT_FILES, encoding="utf-8"
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        handler.setFormatter(old.formatter)
        root.removeHandler(old)
    root.addHandler(handler)
