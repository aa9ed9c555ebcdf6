"""A missing requirement skips a test with the reason, or fails it if skips are forbidden."""

from __future__ import annotations

import pytest

from testkit.needs import lacking


def test_a_missing_requirement_skips_the_test_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISION_FORBID_SKIPS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no engine"):
        lacking("no engine")


def test_a_missing_requirement_fails_the_test_if_skips_are_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VISION_FORBID_SKIPS", "1")
    with pytest.raises(pytest.fail.Exception, match="no engine"):
        lacking("no engine")
