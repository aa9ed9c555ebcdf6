"""The number of random cases that a test runs: few by default, all with ``VISION_SEEDS=all``."""

from __future__ import annotations

import os


def seeds(by_day: int, all_of_them: int) -> range:
    return range(all_of_them if os.environ.get("VISION_SEEDS") == "all" else by_day)
