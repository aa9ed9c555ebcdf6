"""The version of all tiers, the same as in pyproject.toml (checked by tests/test_release.py)."""

VERSION = "0.1.0"
