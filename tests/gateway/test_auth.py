"""The optional key: which routes want it, how it may be sent, how its absence is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.auth import given_key
from tests.gateway.conftest import make_settings
from tests.servers import served

KEY = "correct horse"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    tmp_path = tmp_path_factory.mktemp("locked")
    settings = make_settings(
        tmp_path, manager_url, f"gateway: {{api_key: {KEY}, cors_origins: ['http://page']}}\n"
    )
    with served(create_app(settings)) as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"x-api-key": KEY},
        {"x-api-key": KEY, "authorization": "Basic abc"},
    ],
)
def test_the_right_key_opens_in_either_header(locked: httpx.Client, headers: dict[str, str]) -> None:
    assert locked.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": KEY},
        {"x-api-key": ""},
        {"x-api-key": KEY + " "[:0] + "x"},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
        {"x-api-key": "é".encode("latin-1").decode("latin-1")},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/system/status", "/v1/nope"])
def test_a_wrong_or_absent_key_is_401_on_every_v1_route(
    locked: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = locked.get(path, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_a_configured_origin_may_call_from_a_page_and_another_may_not(locked: httpx.Client) -> None:
    asks = {"origin": "http://page", "access-control-request-method": "POST"}
    allowed = locked.options("/v1/chat/completions", headers=asks)
    assert allowed.headers["access-control-allow-origin"] == "http://page"
    refused = locked.options("/v1/chat/completions", headers={**asks, "origin": "http://evil"})
    assert "access-control-allow-origin" not in refused.headers


def test_an_open_gateway_says_so_loudly_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_app(make_settings(tmp_path, "http://127.0.0.1:1"))
    assert "open to everybody" in caplog.text


def test_the_bearer_token_wins_over_the_other_header() -> None:
    headers = [(b"Authorization", b"Bearer one"), (b"X-API-Key", b"two")]
    assert given_key(headers) == b"one"
    assert given_key([]) is None
