"""``python -m tests.fakes.quick_manager``: the manager, with real workers around a fake engine."""

import sys

from manager.__main__ import main
from manager.process import LocalLauncher

if __name__ == "__main__":
    sys.exit(main(launcher=LocalLauncher((sys.executable, "-m", "tests.fakes.quick_worker"))))
