"""The lines of the log."""

from __future__ import annotations

import logging

from web.serve import LineFormatter


def test_a_line_says_the_same_as_pythons_own_formatter() -> None:
    own = LineFormatter()
    pythons = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for created in (1_764_150_000.0, 1_764_150_000.999, 1_764_150_001.5, 1_764_150_000.25):
        record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "said"})
        record.created, record.msecs = created, created % 1 * 1000
        assert own.format(record) == pythons.format(record)
