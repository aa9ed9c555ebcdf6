"""For all tests: how hypothesis looks for examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast examples come depends on what else the machine does, and says nothing about the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")
