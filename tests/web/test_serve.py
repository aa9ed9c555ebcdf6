"""The lines of the log, and how many files may be open."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys

from web.serve import LineFormatter


def test_a_line_says_the_same_as_pythons_own_formatter() -> None:
    own = LineFormatter()
    pythons = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for created in (1_764_150_000.0, 1_764_150_000.999, 1_764_150_001.5, 1_764_150_000.25):
        record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "said"})
        record.created, record.msecs = created, created % 1 * 1000
        assert own.format(record) == pythons.format(record)


def test_a_server_may_hold_more_connections_than_launchd_allows_a_service_by_itself() -> None:
    code = (
        "import resource as r; from web.serve import allow_many_connections as allow;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard));"
        "allow(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (8192 if hard == resource.RLIM_INFINITY else min(hard, 8192))
