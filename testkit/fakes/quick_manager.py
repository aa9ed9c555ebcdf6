"""``python -m testkit.fakes.quick_manager``: the manager with real workers and a fake engine."""

import sys

from manager.__main__ import main
from manager.launcher.process import LocalLauncher

if __name__ == "__main__":
    sys.exit(main(launcher=LocalLauncher((sys.executable, "-m", "testkit.fakes.quick_worker"))))
