"""Log lines: no content makes one record look like another."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.logs import JsonFormatter, LineFormatter
from web.request_record import RequestRecord

NASTY = "ok\n2026-01-01 00:00:00,000 INFO gateway: forged\r\x1b[31m\x85\u2028\u202e\x00"


def record(message: str = "text", **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": message, **fields})


def test_a_line_equals_pythons_own_formatter() -> None:
    own = LineFormatter()
    pythons = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for created in (1_764_150_000.0, 1_764_150_000.999, 1_764_150_001.5, 1_764_150_000.25):
        entry = record()
        entry.created, entry.msecs = created, created % 1 * 1000
        assert own.format(entry) == pythons.format(entry)


@given(st.text(st.characters()))
def test_any_record_is_one_printable_line(text: str) -> None:
    line = LineFormatter().format(record("%s", args=(text,)))
    assert line.isprintable()
    assert JsonFormatter().format(record("%s", args=(text,))).isprintable()


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_a_traceback_can_not_imitate_a_record(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(NASTY)
    except ValueError:
        text = formatter.format(record(exc_info=sys.exc_info()))
    first, *others = text.split("\n")
    assert "text" in first
    assert all(line.startswith("  | ") and line.isprintable() for line in others)


def test_json_has_the_fields_of_a_request_record_and_utc_time() -> None:
    entry = record(RequestRecord(0, "GET", "/x", "r", status=200))  # type: ignore[arg-type]
    entry.created, entry.msecs = 0.25, 250.0
    assert json.loads(JsonFormatter().format(entry)) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "n",
        "method": "GET",
        "path": "/x",
        "request_id": "r",
        "alias": "-",
        "status": 200,
        "total_ms": 0.0,
        "bytes": 0,
    }
