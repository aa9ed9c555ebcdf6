"""The section `images` of the settings: what is read, and what is refused with a reason."""

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


@pytest.mark.parametrize("word", ["off", "Off", "no", "false", "'off'"])
def test_off_means_off_quoted_or_not(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"fetch: {word}").fetch == "off"


def test_what_is_not_said_is_public_and_bounded(tmp_path: Path) -> None:
    images = read(tmp_path, "")
    assert (images.fetch, images.fetch_allow) == ("public", [])
    assert (images.max_mb, images.max_per_request, images.fetch_timeout_s) == (20, 32, 20.0)


def test_a_network_and_a_single_camera_may_be_allowed(tmp_path: Path) -> None:
    images = read(tmp_path, "fetch_allow: [192.168.1.0/24, 10.0.0.7, 'fd12::/16']")
    assert [str(net) for net in images.fetch_allow] == ["192.168.1.0/24", "10.0.0.7/32", "fd12::/16"]


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("fetch: on", "fetch: Input should be 'off', 'public' or 'any'"),
        ("fetch: private", "fetch: Input should be"),
        ("fetch_allow: 192.168.1.7", "fetch_allow: Input should be a valid list"),
        ("fetch_allow: [192.168.1.7/24]", "192.168.1.7/24 has host bits set"),
        ("fetch_allow: [camera.local]", "'camera.local' does not appear to be an IPv4 or IPv6 network"),
        ("fetch_allow: [3232235777]", "expected a network like '192.168.1.0/24'"),
        ("fetch_allow: ['::ffff:192.168.1.0/120']", "as the IPv4 network that it means"),
        ("max_mb: 0", "max_mb: Input should be greater than or equal to 1"),
        ("max_per_request: 0", "max_per_request"),
        ("fetch_timeout_s: 0", "fetch_timeout_s"),
        ("fetch_timeout_s: .inf", "fetch_timeout_s"),
        ("fetch_from: x", "images.fetch_from: is not a key that there is"),
    ],
)
def test_what_can_t_be_meant_stops_the_start_with_the_line_and_the_reason(
    tmp_path: Path, section: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, section)
    assert reason in str(caught.value)
    assert f"config.yaml:{len(CONFIG.splitlines()) + 1}: images" in str(caught.value)
