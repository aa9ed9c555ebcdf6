"""Lines of the log: for people, or as JSON for machines; to standard error, whoever keeps them.

Rules: a record is one line, whatever a client has sent: what can't be printed is escaped, and each line
of a traceback is marked as such.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from web.printable import printable
from web.request_record import Account

_TRACE = "  | "  # begins the further lines of a record


class LineFormatter(logging.Formatter):
    """``2026-11-26 10:00:00,123 INFO name: message``; each second is put into words once."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second, self._words = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._words = time.strftime(self.default_time_format, time.localtime(second))
        return f"{self._words},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(_TRACE + printable(line) for line in lines)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: ``time`` (UTC), ``level``, ``logger``, and ``message`` or an account's."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Account):
            told |= record.msg.fields()
        else:
            told["message"] = record.getMessage()
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=True)


def configure_logging(form: str = "pretty") -> None:
    """One line an event, to standard error, in *form* "pretty" or "json"; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # What no line tells is not looked up for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as its documentation advises
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client's broken form is no event
