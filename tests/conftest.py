"""For all tests: how hypothesis looks for examples, how many threads BLAS has."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How fast examples come depends on what else the machine does, and says nothing about the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")

# Before anything loads a BLAS, and for every worker that a test starts. Two processes test side by side
# on two cores: threads that wait for their part of a small product spin, and take the other's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
