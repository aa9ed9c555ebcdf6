"""The section `images` of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.settings.file import SettingsError, load
from contracts.settings.images import ImageInputSettings
from tests.gateway.conftest import CONFIG


def read(folder: Path, section: str) -> ImageInputSettings:
    file = folder / "config.yaml"
    file.write_text(f"{CONFIG}images: {{{section}}}\n")
    return load(file, {}).images


OFF = ["off", "Off", "no", "false", "'off'"]


def test_off_can_be_quoted_or_not(tmp_path: Path) -> None:
    for word in OFF:
        assert read(tmp_path, f"fetch: {word}").fetch == "off"


def test_the_defaults_fetch_public_urls_within_limits(tmp_path: Path) -> None:
    images = read(tmp_path, "")
    assert (images.fetch, images.fetch_allow) == ("public", [])
    assert (images.max_mb, images.max_per_request, images.fetch_timeout_s) == (20, 32, 20.0)


def test_networks_and_single_addresses_can_be_allowed(tmp_path: Path) -> None:
    images = read(tmp_path, "fetch_allow: [192.168.1.0/24, 10.0.0.7, 'fd12::/16']")
    assert [str(net) for net in images.fetch_allow] == ["192.168.1.0/24", "10.0.0.7/32", "fd12::/16"]


INVALID = [
    ("fetch: on", "fetch: Input should be 'off', 'public' or 'any'"),
    ("fetch: private", "fetch: Input should be"),
    ("fetch_allow: 192.168.1.7", "fetch_allow: Input should be a valid list"),
    ("fetch_allow: [192.168.1.7/24]", "192.168.1.7/24 has host bits set"),
    ("fetch_allow: [camera.local]", "'camera.local' does not appear to be an IPv4 or IPv6 network"),
    ("fetch_allow: [3232235777]", "expected a network like '192.168.1.0/24'"),
    ("fetch_allow: ['::ffff:192.168.1.0/120']", "as an IPv4 network"),
    ("max_mb: 0", "max_mb: Input should be greater than or equal to 1"),
    ("max_per_request: 0", "max_per_request"),
    ("fetch_timeout_s: 0", "fetch_timeout_s"),
    ("fetch_timeout_s: .inf", "fetch_timeout_s"),
    ("fetch_from: x", "images.fetch_from: unknown key"),
]


def test_an_invalid_value_is_reported_with_line_and_reason(tmp_path: Path) -> None:
    for section, reason in INVALID:
        with pytest.raises(SettingsError) as caught:
            read(tmp_path, section)
        assert reason in str(caught.value)
        assert f"config.yaml:{len(CONFIG.splitlines()) + 1}: images" in str(caught.value)
