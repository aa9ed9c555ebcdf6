"""``python -m manager`` with fake workers: the same entry point, another argv for the workers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from manager.__main__ import main
from manager.process import LocalLauncher

if __name__ == "__main__":
    worker = str(Path(__file__).with_name("worker.py"))
    sys.exit(main(launcher=LocalLauncher((sys.executable, worker))))
