"""The log file of a service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_log_file_keeps_the_format_and_is_rotated(tmp_path: Path) -> None:
    """In a process of its own: there is one root logger."""
    code = (
        "import logging, sys; from pathlib import Path; from web.logs import log_to_file;"
        "logging.basicConfig(level=logging.INFO, format='%(levelname)s: %(message)s');"
        "log_to_file(Path(sys.argv[1]) / 'logs' / 'm.log', 0.001);"
        "[logging.info('line %d', n) for n in range(300)]"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["m.log", "m.log.1", "m.log.2", "m.log.3"]
    assert all(log.stat().st_size <= 1049 for log in logs)
    assert logs[0].read_text().endswith("INFO: line 299\n")
