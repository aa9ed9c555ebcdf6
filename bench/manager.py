"""``python -m manager`` with ``bench.worker`` as its workers: the same entry point, another argv."""

import sys

from manager.__main__ import main
from manager.launcher.process import LocalLauncher

if __name__ == "__main__":
    sys.exit(main(launcher=LocalLauncher((sys.executable, "-m", "bench.worker"))))
