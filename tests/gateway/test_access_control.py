"""Keys and per-client limits: which routes need a key, how it is sent, how much one client may use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.access_control import _address
from gateway.app import create_app
from testkit import plain
from testkit.servers import served
from testkit.stacks import wait_for
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import StandIn

KEY = "correct horse"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    tmp_path = tmp_path_factory.mktemp("locked")
    settings = make_settings(
        tmp_path, manager_url, f"gateway: {{api_key: {KEY}, cors_origins: ['http://page']}}\n"
    )
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
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
def test_a_valid_key_is_accepted_in_either_header(
    locked: httpx.Client, headers: dict[str, str]
) -> None:
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


def test_a_configured_origin_may_call_from_a_page_and_another_may_not(
    locked: httpx.Client, manager: StandIn
) -> None:
    asks = {"origin": "http://page", "access-control-request-method": "POST"}
    allowed = locked.options("/v1/chat/completions", headers=asks)
    assert allowed.headers["access-control-allow-origin"] == "http://page"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    key = {"x-api-key": KEY}
    posted = locked.post("/v1/chat/completions", json=body, headers={**key, "origin": "http://page"})
    assert posted.status_code == 200
    assert posted.headers["access-control-allow-origin"] == "http://page"
    evil = {"origin": "http://evil"}
    for refused in (
        locked.options("/v1/chat/completions", headers={**asks, **evil}),
        locked.post("/v1/chat/completions", json=body, headers={**key, **evil}),
    ):
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "foreign_origin"
        assert "access-control-allow-origin" not in refused.headers


def test_an_open_gateway_logs_a_warning_at_startup(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_app(make_settings(tmp_path, "http://127.0.0.1:1"))
    assert "open to everyone" in caplog.text


# --- limits -----------------------------------------------------------------------------------------


@contextmanager
def limited(tmp_path: Path, manager_url: str, limits: str, now: list[float]) -> Iterator[httpx.Client]:
    """A gateway with keys a, b and more *limits*, whose clock *now* is set by the test."""
    extra = f"gateway: {{keys: {{a: key-a, b: key-b}}, {limits}}}\n"
    settings = make_settings(tmp_path, manager_url, extra)
    app = create_app(settings, clock=lambda: now[0])
    with served(app) as url, plain.Client(base_url=url) as http:
        yield http


def key(name: str) -> dict[str, str]:
    return {"x-api-key": f"key-{name}"}


def test_each_key_has_its_own_rate_limit_and_the_headers_report_it(
    tmp_path: Path, manager_url: str
) -> None:
    now = [100.0]
    rate = "rate_limit: {requests_per_minute: 12, burst: 2}"
    with limited(tmp_path, manager_url, rate, now) as http:
        first = http.get("/v1/models", headers=key("a"))
        reported = {k: v for k, v in first.headers.items() if k.startswith("x-ratelimit-")}
        assert reported == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "5s",
        }
        assert http.get("/v1/models", headers=key("a")).status_code == 200
        now[0] += 0.5
        refused = http.get("/v1/models", headers=key("a"))
        assert refused.status_code == 429
        problem = refused.json()["error"]
        assert (problem["type"], problem["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "gateway.rate_limit" in problem["message"]
        assert refused.headers["retry-after"] == "5"
        assert http.get("/v1/models", headers=key("b")).status_code == 200, "it has its own"
        assert http.get("/healthz").status_code == 200
        now[0] += 5
        assert http.get("/v1/models", headers=key("a")).status_code == 200


def test_guessing_keys_is_rate_limited(tmp_path: Path, manager_url: str) -> None:
    rate = "rate_limit: {requests_per_minute: 12, burst: 2}"
    with limited(tmp_path, manager_url, rate, [0.0]) as http:
        reported = [http.get("/v1/models", headers=key(f"guess{n}")).status_code for n in range(4)]
        assert reported == [401, 401, 429, 429]
        assert http.get("/v1/models", headers=key("a")).status_code == 200, "others are not affected"


def test_a_client_can_not_exceed_its_limit_of_open_requests(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    manager.mode = "hang"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with (
        limited(tmp_path, manager_url, "max_concurrent_per_client: 2", [0.0]) as http,
        ThreadPoolExecutor(4) as threads,
    ):
        url = f"{http.base_url}/v1/chat/completions"
        for _ in range(2):
            threads.submit(_abandoned, url, body, key("a"))
        wait_for(lambda: len(manager.received) == 2)
        refused = http.get("/v1/models", headers=key("a"))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_open_requests"
        assert "gateway.max_concurrent_per_client" in refused.json()["error"]["message"]
        assert http.get("/v1/models", headers=key("b")).status_code == 200
        # A client that leaves frees its place.
        wait_for(lambda: http.get("/v1/models", headers=key("a")).status_code == 200)


def _abandoned(url: str, body: object, headers: dict[str, str]) -> None:
    with pytest.raises(httpx.ReadTimeout):
        plain.post(url, json=body, headers=headers, timeout=1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("fd00::1", "fd00::2", True),
        ("fd00::1", "fd00:0:0:1::1", False),
        ("fe80::1%en0", "fe80::2", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
    ],
)
def test_all_addresses_of_a_household_count_as_one_client(one: str, other: str, same: bool) -> None:
    first, second = (_address({"client": (host, 1)}) for host in (one, other))
    assert (first == second) is same
