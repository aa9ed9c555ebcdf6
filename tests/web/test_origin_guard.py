"""The policy distinguishes requests of foreign pages from those of people and programs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ApiError
from web.origin_guard import OriginPolicy, is_own_host, is_same_site

OWN = [
    "127.0.0.1", "127.0.0.1:8000", "192.168.1.20:8000", "[::1]:8000", "[fd00::1]",
    "[fe80::1%25en0]:8000", "localhost", "LOCALHOST:8000", "mac", "Mac-mini:8000",
    "vibe-vision-gateway:8000", "vision_gateway", "mac.local", "Mac-mini.local:8000", "a.b.local",
    "host.docker.internal:8100",
]  # fmt: skip
FOREIGN = [
    "", ":8000", "evil.com", "evil.com:8000", "mac.evil.com", "localhost.evil.com",
    "127.0.0.1.evil.com", "127.0.0.1.nip.io", "1.2.3", "256.1.1.1", "127.0.0.1.", "evil.com.",
    "ai.", ".local", "a..local", "-a.local", "mac.local.evil.com", "host.docker.internal.evil.com",
    "docker.internal", "[::1", "[::1].evil.com", "[evil.com]", "[127.0.0.1]", "::1",
    "mac:8000:8000", "mac:", "mac:80a", "mac:123456", "mac/evil.com", "evil.com@mac",
    "mac evil.com", "mac,evil.com", "mac\r\nx: y", "mac\x00", "mäc.local", "a" * 64 + ".local",
    "a" * 400,
]  # fmt: skip


def test_addresses_single_labels_and_local_names_are_own_hosts() -> None:
    assert [host for host in OWN if not is_own_host(host)] == []


def test_other_names_are_foreign() -> None:
    for host in FOREIGN:
        assert not is_own_host(host), host
        assert code(scope({"host": host})) == "foreign_host", host


def test_names_can_be_allowed_singly_or_by_wildcard() -> None:
    allowed = ("vision.example.org", "VISION.example.org:443", "a.home.arpa", "b.a.home.arpa")
    others = ("home.arpa", "example.org", "x.vision.example.org", "evilhome.arpa")
    found = {
        host: is_own_host(host, {"vision.example.org", "*.home.arpa"}) for host in allowed + others
    }
    assert found == dict.fromkeys(allowed, True) | dict.fromkeys(others, False)


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_a_dotted_name_is_own_only_by_the_rules(host: str) -> None:
    name = host.lower().partition(":")[0]
    if is_own_host(host) and "." in name and not host.startswith("["):
        assert (
            name.endswith(".local") or name == "host.docker.internal" or name.replace(".", "").isdigit()
        )


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (b"http://mac:8000", b"mac:8000", True),
        (b"HTTP://MAC:8000", b"mac:8000", True),
        (b"http://mac", b"mac", True),
        (b"http://mac", b"mac:80", True),
        (b"https://vision.example.org", b"vision.example.org:443", True),
        (b"https://mac:8000", b"mac:8000", True),  # TLS ends in front of us
        (b"http://[::1]:8000", b"[::1]:8000", True),
        (b"http://mac:8080", b"mac:8000", False),
        (b"http://mac", b"mac:8000", False),
        (b"http://mac:8000.evil.com", b"mac:8000", False),
        (b"http://evil.com", b"mac:8000", False),
        (b"null", b"null", False),
        (b"", b"", False),
        (b"http://", b"", False),
        (b"file://", b"", False),
        (b"ftp://mac", b"mac", False),
        (b"mac:8000", b"mac:8000", False),
    ],
)
def test_a_page_is_same_site_when_origin_and_host_match(origin: bytes, host: bytes, same: bool) -> None:
    assert is_same_site(origin, host) is same


def scope(headers: Any, method: str = "POST", path: str = "/v1/x") -> dict[str, Any]:
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(key.encode(), value.encode("latin-1")) for key, value in pairs]
    return {"type": "http", "method": method, "path": path, "headers": raw}


def refusal(request: dict[str, Any], **rules: Any) -> ApiError | None:
    return OriginPolicy("gateway", **rules).refusal(request)


def code(request: dict[str, Any], **rules: Any) -> str | None:
    error = refusal(request, **rules)
    return error.code if error else None


MAC = ("host", "mac:8000")


def test_a_page_of_another_site_is_always_refused() -> None:
    for origin in ("http://evil.com", "null", "", "http://mac", "http://mac:8000/"):
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            found = code(scope([MAC, ("origin", origin)], method))
            assert found == "foreign_origin", (origin, method)


def test_own_pages_and_configured_ones_may_send() -> None:
    assert refusal(scope([MAC, ("origin", "http://mac:8000")])) is None
    page = scope([MAC, ("origin", "https://app.example.org"), ("sec-fetch-site", "cross-site")])
    assert refusal(page, origins=["https://App.example.org/"]) is None
    assert refusal(page, origins=["*"]) is None
    assert code(scope([MAC, ("origin", "null")]), origins=["*", "null"]) == "foreign_origin"


def test_the_public_url_is_an_own_host_behind_a_proxy() -> None:
    url = "https://vision.example.org/ai"
    assert refusal(scope({"host": "vision.example.org"}), public_url=url) is None
    page = scope([MAC, ("origin", "https://vision.example.org")])
    assert refusal(page, public_url=url) is None
    assert code(page) == "foreign_origin"


@pytest.mark.parametrize(
    ("method", "site", "expected"),
    [
        ("POST", "cross-site", "foreign_origin"),
        ("DELETE", "cross-site", "foreign_origin"),
        ("GET", "cross-site", None),  # an image in a page
        ("HEAD", "cross-site", None),
        ("POST", "same-origin", None),
        ("POST", "none", None),
    ],
)
def test_a_page_that_hides_its_origin_changes_nothing_here(
    method: str, site: str, expected: str | None
) -> None:
    assert code(scope([MAC, ("sec-fetch-site", site)], method)) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("accept", "*/*")],
        [MAC, MAC],
        [MAC, ("host", "evil.com")],
        [MAC, ("origin", "http://mac:8000"), ("origin", "http://evil.com")],
        [MAC, ("content-length", "1"), ("content-length", "1")],
    ],
)
def test_repeated_security_headers_are_refused(headers: Any) -> None:
    error = refusal(scope(headers))
    assert error is not None
    assert (error.status, error.code) == (400, "invalid_request")


def test_other_headers_may_be_repeated() -> None:
    assert refusal(scope([MAC, ("accept", "a"), ("accept", "b")])) is None


@pytest.mark.parametrize(
    ("path", "size", "fits"), [("/a", 10, True), ("/a", 11, False), ("/b", 11, True)]
)
def test_a_too_large_content_length_is_refused_unread(path: str, size: int, fits: bool) -> None:
    limits = {"/a": 10}
    request = scope([MAC, ("content-length", str(size))], path=path)
    assert code(request, body_limit=limits.get) == (None if fits else "payload_too_large")


def test_a_refusal_names_the_setting_and_repeats_little_of_the_input() -> None:
    foreign = refusal(scope({"host": "e" * 200 + ".com"}))
    page = refusal(scope([MAC, ("origin", "http://" + "e" * 9000)]))
    assert foreign is not None
    assert "gateway.allowed_hosts" in foreign.message
    assert page is not None
    assert "gateway.cors_origins" in page.message
    assert all(len(error.message) < 250 for error in (foreign, page))
    assert (foreign.status, foreign.headers()) == (403, {"x-should-retry": "false"})


def test_invented_hosts_do_not_grow_the_cache() -> None:
    policy = OriginPolicy("gateway")
    for number in range(1000):
        assert policy.refusal(scope({"host": f"h{number}.evil.com"})) is not None
        assert policy.refusal(scope([MAC])) is None
    assert len(policy._known) <= 256
