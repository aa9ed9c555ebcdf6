"""For all tests: how hypothesis looks for examples, and how many threads draw."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How fast examples come depends on what else the machine does, and says nothing about the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")

# Tests run side by side, one on each core. A second thread for the products of a model would wait for
# the first while it turns in circles: a third of all time that drawings took. Workers inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
