"""What a machine lacks is a skip with its reason, and a failure where nothing may be lacking."""

from __future__ import annotations

import pytest

from testkit.needs import lacking


def test_what_is_lacking_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISION_FORBID_SKIPS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no engine"):
        lacking("no engine")


def test_where_ci_promised_everything_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_FORBID_SKIPS", "1")
    with pytest.raises(pytest.fail.Exception, match="no engine"):
        lacking("no engine")
