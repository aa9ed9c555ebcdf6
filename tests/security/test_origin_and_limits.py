"""Access control over real sockets: foreign pages, foreign host names, oversized input."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from contracts.settings.file import DEFAULT_CONFIG
from gateway.app import create_app
from manager.app import ManagerApp
from testkit import plain
from testkit.servers import served
from tests.security.conftest import TIERS, Tiers, settings_with
from tests.security.wire import Answer, connect, read, request, send

CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
SERVER = "server"  # the source of errors before the app has a request; in a process, the tier's name
READS = {"gateway": "/healthz", "manager": "/status"}
CHANGES = {
    "gateway": ("/v1/system/evict/a", "/v1/system/warm/a", "/v1/chat/completions", "/v1/nope"),
    "manager": ("/stop-all", "/spawn/a", "/pull/a", "/workers/a/v1/chat/completions"),
}
CHANGED = [(tier, path) for tier, paths in CHANGES.items() for path in paths]


def refused(answer: Answer, status: int, code: str, tier: str) -> None:
    assert answer.status == status, answer
    assert answer.error["code"] == code
    assert answer.error["source"] == tier


# --- DNS rebinding --------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "path"), [*READS.items(), *CHANGED])
@pytest.mark.parametrize("host", ["evil.com", "a.127.0.0.1.nip.io:8000", "localhost.evil.com"])
def test_a_rebinding_host_name_reaches_nothing(tiers: Tiers, tier: str, path: str, host: str) -> None:
    method = "GET" if path in READS.values() else "POST"
    # As a browser sends it: for the browser, the page and this machine are the same site.
    page = ("Origin", f"http://{host}")
    answer = send(tiers.url(tier), request(path, page, method=method, host=host, body=CHAT))
    refused(answer, 403, "foreign_host", tier)
    assert f"{tier}.allowed_hosts" in answer.error["message"]


@pytest.mark.parametrize(
    ("tier", "host"),
    [
        *((tier, host) for tier in TIERS for host in ("localhost:1", "mac", "mac.local:8000", "[::1]")),
        *((tier, "host.docker.internal:8100") for tier in TIERS),  # the dashboard's container
        ("gateway", "vibe-vision-gateway:8000"),
        ("gateway", "vision.example.org"),
        ("gateway", "x.home.arpa:8000"),
        ("manager", "mac.example.org"),
    ],
)
def test_every_name_of_this_machine_reaches_it(tiers: Tiers, tier: str, host: str) -> None:
    assert send(tiers.url(tier), request(READS[tier], host=host)).status == 200


def test_a_host_allowed_for_one_tier_is_not_allowed_for_the_other(tiers: Tiers) -> None:
    assert send(tiers.manager, request("/status", host="vision.example.org")).status == 403
    assert send(tiers.gateway, request("/healthz", host="mac.example.org")).status == 403


@pytest.mark.parametrize("tier", TIERS)
def test_a_request_has_one_host(tiers: Tiers, tier: str) -> None:
    path, url = READS[tier], tiers.url(tier)
    refused(send(url, request(path, host=None)), 400, "invalid_request", tier)
    refused(send(url, f"GET {path} HTTP/1.0\r\n\r\n".encode()), 400, "invalid_request", tier)
    refused(send(url, request(path, ("Host", "evil.com"))), 400, "invalid_request", tier)
    refused(send(url, request(path, ("host", "127.0.0.1"))), 400, "invalid_request", tier)


# --- pages of other sites ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "https://127.0.0.1:1", "null", "http://localhost"]
)
@pytest.mark.parametrize(("tier", "path"), CHANGED)
def test_a_cross_site_form_changes_nothing(tiers: Tiers, tier: str, path: str, origin: str) -> None:
    # text/plain: a page may send it to any site without a preflight.
    simple = (("Origin", origin), ("Content-Type", "text/plain"))
    answer = send(tiers.url(tier), request(path, *simple, method="POST", body=CHAT))
    refused(answer, 403, "foreign_origin", tier)
    assert "gateway.cors_origins" in answer.error["message"]


def test_a_configured_origin_can_use_both_tiers(tiers: Tiers) -> None:
    page = {"origin": "http://page.example.org", "sec-fetch-site": "cross-site"}
    asks = {**page, "access-control-request-method": "POST"}
    allowed = httpx.options(f"{tiers.gateway}/v1/chat/completions", headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == page["origin"]
    # The gateway sends its own request to the manager, without the page's headers.
    answer = plain.get(f"{tiers.gateway}/v1/models/a", headers=page)
    assert answer.status_code == 200
    assert answer.json()["state"] == "stopped", "the gateway reached the manager"


def test_every_page_may_use_the_api_if_that_is_configured_but_not_stop_workers(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "gateway: {cors_origins: ['*']}\n")
    page = ("Origin", "http://any.example.org")
    with served(create_app(settings)) as gateway:
        assert send(gateway, request("/v1/vision/tasks", page)).status == 200
    with served(ManagerApp(settings)) as manager:
        refused(
            send(manager, request("/stop-all", page, method="POST")), 403, "foreign_origin", "manager"
        )


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/workers/../status", "/workers/%2e%2e/status", "/workers//status"])
def test_there_is_no_way_around_the_manager_s_routes(tiers: Tiers, path: str) -> None:
    refused(send(tiers.manager, request(path)), 404, "model_not_found", "manager")


def test_status_reveals_no_secrets(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "CANARY-hf")
    keys = "CANARY-1"
    settings = settings_with(
        tmp_path, f"gateway: {{api_key: {keys}, keys: {{a: {keys}2}}}}\nmanager: {{token: {keys}3}}\n"
    )
    with served(ManagerApp(settings)) as url:
        for path in ("/status", "/health", "/logs/a"):
            answer = plain.get(url + path, headers={"x-manager-token": f"{keys}3"})
            assert answer.status_code == 200
            assert "CANARY" not in answer.text
            assert str(tmp_path) not in answer.text
            assert str(DEFAULT_CONFIG.parent) not in answer.text


# --- too much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_a_long_url_is_a_414(tiers: Tiers, tier: str) -> None:
    refused(send(tiers.url(tier), request("/" + "a" * 9000)), 414, "url_too_long", SERVER)
    # An endless URL is refused before it ends.
    endless = (b"GET /" + b"a" * (1 << 16) if n == 0 else b"a" * (1 << 16) for n in range(64))
    refused(send(tiers.url(tier), *endless), 414, "url_too_long", SERVER)


@pytest.mark.parametrize("tier", TIERS)
def test_large_headers_are_a_431(tiers: Tiers, tier: str) -> None:
    url, path = tiers.url(tier), READS[tier]
    for head in (
        request(path, ("X-Large", "a" * (1 << 20))),
        request(path, *((f"X-{n}", "a" * 1000) for n in range(90))),
        request(path, *((f"X-{n}", "") for n in range(200))),
    ):
        refused(send(url, head), 431, "headers_too_large", SERVER)
    endless = (b"GET / HTTP/1.1\r\nX: " if n == 0 else b"a" * (1 << 16) for n in range(64))
    refused(send(url, *endless), 431, "headers_too_large", SERVER)
    assert send(url, request(path, ("X-Large", "a" * 30_000))).status == 200


@pytest.mark.parametrize("tier", TIERS)
def test_invalid_http_is_a_400_in_the_usual_shape(tiers: Tiers, tier: str) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELLO\r\n\r\n", b"GET\r\n\r\n"):
        refused(send(tiers.url(tier), garbage), 400, "invalid_request", SERVER)


@pytest.mark.parametrize(
    ("tier", "path"), [("gateway", "/v1/system/evict/a"), ("manager", "/stop-all")]
)
def test_a_route_without_a_body_refuses_a_large_one(tiers: Tiers, tier: str, path: str) -> None:
    large = request(path, ("Content-Length", "1000000"), method="POST")
    refused(send(tiers.url(tier), large), 413, "payload_too_large", tier)
    assert send(tiers.url(tier), request(path, method="POST", body=b"x" * 1000)).status == 200


def test_a_too_large_content_length_is_answered_before_the_body(tiers: Tiers) -> None:
    head = request("/v1/chat/completions", ("Content-Length", str(65 << 20)), method="POST")
    answer = send(tiers.gateway, head)
    refused(answer, 413, "payload_too_large", "gateway")
    assert "64 MiB" in answer.error["message"]


def test_an_endless_body_is_cut_at_the_limit(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "gateway: {max_body_mb: 1}\n")
    head = request("/v1/chat/completions", ("Transfer-Encoding", "chunked"), method="POST")
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    with served(create_app(settings)) as url, connect(url) as sock:
        sock.sendall(head)
        for _ in range(17):
            sock.sendall(chunk)
        refused(read(sock), 413, "payload_too_large", "gateway")


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages":[],"x":' + b'{"a":' * 100_000,
        b"[" * 5_000_000,
    ],
)
def test_deeply_nested_json_is_a_quick_400(tiers: Tiers, body: bytes) -> None:
    began = time.monotonic()
    for path in ("/v1/chat/completions", "/v1/vision/analyze", "/v1/images/generations"):
        answer = send(tiers.gateway, request(path, method="POST", body=body))
        refused(answer, 400, "invalid_request", "gateway")
    assert time.monotonic() - began < 5
    assert send(tiers.gateway, request("/healthz")).status == 200


def test_concurrent_clients_get_the_burst_and_no_more(tmp_path: Path) -> None:
    rate = "gateway: {rate_limit: {requests_per_minute: 60, burst: 10}}\n"
    app = create_app(settings_with(tmp_path, rate), clock=lambda: 0.0)
    with served(app) as url, ThreadPoolExecutor(20) as threads:
        ask = request("/v1/vision/tasks")
        statuses = Counter(a.status for a in threads.map(lambda _: send(url, ask), range(60)))
    assert statuses == {200: 10, 429: 50}
