"""The gateway and the key that a command uses."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.address import GatewayAddress, find, parse_host
from cli.errors import UsageError
from contracts.settings import Settings
from contracts.settings.file import SettingsError, load
from testkit.stacks import demo_config

KEY = "of-this-machine"


@pytest.fixture
def mine(tmp_path: Path) -> Settings:
    return load(demo_config(tmp_path, {"gateway.api_key": KEY, "gateway.port": 8123}), {})


def found(
    mine: Settings, host: str | None = None, key: str | None = None, **environ: str
) -> GatewayAddress:
    return find(host, key, environ, lambda: mine)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mac", "http://mac:8000"),
        ("mac:", "http://mac:8000"),
        ("mac:9000", "http://mac:9000"),
        ("192.168.0.7", "http://192.168.0.7:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("[::1]:81", "http://[::1]:81"),
        ("http://mac", "http://mac"),
        ("https://vision.example.org/", "https://vision.example.org"),
        ("https://example.org/vision/", "https://example.org/vision"),
        ("http://mac:8000/v1", "http://mac:8000"),
        ("http://mac:8000/v1/", "http://mac:8000"),
    ],
)
def test_hosts_are_parsed(text: str, url: str) -> None:
    assert parse_host(text) == url


@pytest.mark.parametrize(
    "text",
    ["http://", "ftp://mac", "mac:port", "mac:99999", "[::1", "mac?x", "http://mac#x", ":80", "/"],
)
def test_an_invalid_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a valid host"):
        parse_host(text)


def test_a_key_in_a_host_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        parse_host("http://me:secret@mac")
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert parse_host(text).startswith(("http://", "https://"))


def test_the_default_is_this_machine_s_gateway_with_its_key(mine: Settings) -> None:
    assert found(mine) == GatewayAddress("http://127.0.0.1:8123", True, KEY)


def test_this_machine_s_key_is_not_sent_to_another_gateway(mine: Settings) -> None:
    assert found(mine, "mac:8123") == GatewayAddress("http://mac:8123", False, None)
    assert found(mine, "localhost:9") == GatewayAddress("http://localhost:9", False, None)


@pytest.mark.parametrize("host", ["localhost:8123", "127.0.0.1:8123", "http://[::1]:8123/v1"])
def test_this_machine_s_gateway_is_recognized_by_its_loopback_names(mine: Settings, host: str) -> None:
    address = found(mine, host)
    assert (address.local, address.key) == (True, KEY)


def test_the_command_line_overrides_the_environment_and_that_the_settings(mine: Settings) -> None:
    everywhere = {"VISION_HOST": "env", "VISION_KEY": "k1", "GATEWAY_API_KEY": "k2"}
    assert found(mine, "given", "k0", **everywhere) == GatewayAddress("http://given:8000", False, "k0")
    assert found(mine, **everywhere) == GatewayAddress("http://env:8000", False, "k1")
    assert found(mine, GATEWAY_API_KEY="k2").key == "k2"
    assert found(mine, VISION_HOST="", VISION_KEY="") == found(mine)


def test_a_named_key_is_used_if_there_is_no_api_key(tmp_path: Path) -> None:
    settings = load(demo_config(tmp_path, {"gateway.keys": {"laptop": "named"}}), {})
    assert found(settings).key == "named"


def broken() -> Settings:
    raise SettingsError("config.yaml:3: wrong")


def test_invalid_settings_are_only_an_error_if_they_are_needed() -> None:
    assert find("mac", None, {}, broken).url == "http://mac:8000"
    assert not find("localhost", None, {}, broken).local
    with pytest.raises(UsageError, match=r"config\.yaml:3"):
        find(None, None, {}, broken)


@pytest.mark.parametrize("key", ["with space", "umläut", "line\nend"])
def test_a_key_that_is_invalid_in_a_header_is_refused_and_not_shown(mine: Settings, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        found(mine, key=key)
    assert key not in str(caught.value)


def test_the_repr_has_no_key() -> None:
    shown: Any = repr(GatewayAddress("http://mac", False, "secret"))
    assert "secret" not in shown
