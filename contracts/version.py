"""The version of all tiers, as pyproject.toml has it (tests/test_release.py)."""

VERSION = "0.1.0"
