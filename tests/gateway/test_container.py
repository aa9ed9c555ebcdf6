"""Limits per client, in a container that may see one client where there are many."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway import container
from gateway.app import create_app
from tests.gateway.conftest import make_settings

LIMITS = {
    "rate_limit: {requests_per_minute: 60, burst: 10}": "gateway.rate_limit:",
    "max_concurrent_per_client: 5": "gateway.max_concurrent_per_client:",
    "rate_limit: {requests_per_minute: 60, burst: 10}, max_concurrent_per_client: 5": (
        "gateway.rate_limit and gateway.max_concurrent_per_client:"
    ),
}


def warned(
    folder: Path, gateway: str, caplog: pytest.LogCaptureFixture, *, contained: bool
) -> list[str]:
    mark = folder / "mark"
    mark.touch() if contained else mark.unlink(missing_ok=True)
    settings = make_settings(folder, "http://x:8100", f"gateway: {{{gateway}}}\n")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gateway.app"):
        create_app(settings, container_marks=[mark])
    return [text for text in caplog.messages if "Docker Desktop" in text]


def test_limits_by_address_in_a_container_are_warned_about_with_both_cures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for gateway, named in LIMITS.items():
        (warning,) = warned(tmp_path, gateway, caplog, contained=True)
        assert warning.startswith(named)
        assert "GATEWAY_API_KEYS" in warning
        assert "NATIVE=1" in warning


def test_nothing_is_said_with_keys_without_limits_or_without_a_container(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = next(iter(LIMITS))
    assert warned(tmp_path, limit, caplog, contained=False) == []
    assert warned(tmp_path, f"{limit}, api_key: a-long-key", caplog, contained=True) == []
    assert warned(tmp_path, f"{limit}, keys: {{phone: a-long-key}}", caplog, contained=True) == []
    for gateway in ("", "rate_limit: null", "max_concurrent_per_client: null"):
        assert warned(tmp_path, gateway, caplog, contained=True) == []


def test_docker_and_podman_are_known_by_the_files_that_they_make() -> None:
    assert [str(mark) for mark in container.MARKS] == ["/.dockerenv", "/run/.containerenv"]
