"""``python -m manager`` with fake workers: the same entry point, another worker command.

The file ``FAKE_MANAGER_LEVERS`` controls values that a test cannot change otherwise: a JSON object with
``pressure`` (0 normal, 1 warning, 2 critical) and ``clock_offset_s``, read at each use.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from manager.__main__ import main
from manager.launcher.process import LocalLauncher
from manager.memory.pressure import Pressure

LEVERS = "FAKE_MANAGER_LEVERS"


class Levers:
    def __init__(self, path: str | None) -> None:
        self._path = path

    def pressure(self) -> Pressure:
        return Pressure(int(self._value("pressure")))

    def clock(self) -> float:
        return time.monotonic() + self._value("clock_offset_s")

    def _value(self, name: str) -> float:
        if self._path is None:
            return 0.0
        try:
            return float(json.loads(Path(self._path).read_text()).get(name, 0))
        except FileNotFoundError:
            return 0.0


if __name__ == "__main__":
    worker = str(Path(__file__).with_name("worker.py"))
    levers = Levers(os.environ.get(LEVERS))
    launcher = LocalLauncher((sys.executable, worker))
    sys.exit(main(launcher=launcher, read_pressure=levers.pressure, clock=levers.clock))
