"""For all tests: how hypothesis looks for examples, and how many threads a model computes on."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How fast examples come depends on what else the machine does, and says nothing about the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")

# Of the BLAS, here and in child processes. The demo models are small: a second thread waits for the
# first, at full load, and the tests run on all cores as it is.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
