"""The lines of the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from web.serve import LineFormatter


def test_a_line_says_the_same_as_pythons_own_formatter() -> None:
    own = LineFormatter()
    pythons = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for created in (1_764_150_000.0, 1_764_150_000.999, 1_764_150_001.5, 1_764_150_000.25):
        record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "said"})
        record.created, record.msecs = created, created % 1 * 1000
        assert own.format(record) == pythons.format(record)


def test_a_service_s_log_goes_to_a_file_that_is_rotated(tmp_path: Path) -> None:
    """In a process of its own: there is one root logger."""
    code = (
        "import logging, sys; from pathlib import Path; from web import serve;"
        "serve.configure_logging(); serve.log_to_file(Path(sys.argv[1]) / 'logs' / 'm.log', 0.001);"
        "[logging.info('line %d', n) for n in range(100)]"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["m.log", "m.log.1", "m.log.2", "m.log.3"]
    assert all(log.stat().st_size <= 1049 for log in logs)
    assert logs[0].read_text().endswith("INFO root: line 99\n")
