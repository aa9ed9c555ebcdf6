"""Headers on their way to the worker: none can be injected, removed or leaked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.security.hops import ALIAS, TIERS, Attacked, body, path_of, request, under_attack

pytestmark = pytest.mark.process

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with under_attack(tmp_path_factory.mktemp("headers")) as attacked:
        yield attacked


_NOT_PLAIN = (b"a b", b"a%0d%0ax-b: c", b'"><script>', b"\xc3\xa9", b"\xff", b"a" * 129, b"", b"a;b")


def test_a_request_id_that_is_not_plain_is_not_forwarded(attacked: Attacked) -> None:
    for tier, given in itertools.product(TIERS, _NOT_PLAIN):
        user = f"id-{next(_NUMBERS)}-"
        sent = request(path_of(tier), body(user), b"x-request-id: " + given, b"connection: close")
        (answer,) = attacked.send(tier, sent).answers
        (arrived,) = attacked.arrived(user)
        assert answer.headers["x-request-id"].startswith("req_"), (tier, given)
        assert arrived.all("x-request-id")[0].startswith("req_"), (tier, given)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("where", ["query", "user", "model"])
def test_line_ends_in_input_create_no_headers(attacked: Attacked, tier: str, where: str) -> None:
    user = f"line-end-{next(_NUMBERS)}-"
    data = {"messages": [{"role": "user", "content": "hi\r\nx-injected: 1\r\n\r\n"}], "user": user}
    path = path_of(tier)
    if where == "query":
        path += b"?a=%0d%0ax-injected:%201%0d%0a%0d%0a"
    elif where == "user":
        data["user"] = f"{user}\r\nx-injected: 1\r\n\r\n"
    else:
        data["model"] = f"{ALIAS}\r\nx-injected: 1\r\n\r\n{user}"
    sent = request(path, json.dumps(data).encode(), b"connection: close")
    (answer,) = attacked.send(tier, sent).answers
    # Only the gateway parses the body.
    refused = where == "model" and tier == "gateway"
    assert answer.status == (404 if refused else 200)
    assert "x-injected" not in answer.headers
    arrived = attacked.arrived(user)
    assert len(arrived) == (not refused)
    assert all(one.all("x-injected") == [] for one in arrived)
    assert all(json.loads(one.body) == data for one in arrived)


OURS = (
    "content-type",
    "content-length",
    "x-request-id",
    "host",
    "authorization",
    "x-vision-keep-alive",
)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("named", [*OURS, ", ".join(OURS)])
def test_connection_can_not_remove_our_headers(attacked: Attacked, tier: str, named: str) -> None:
    user = f"connection-{next(_NUMBERS)}-"
    sent = request(
        path_of(tier),
        body(user),
        b"x-request-id: id-" + user.encode(),
        b"connection: close, " + named.encode(),
    )
    (answer,) = attacked.send(tier, sent).answers
    (arrived,) = attacked.arrived(user)
    assert answer.status == 200
    assert answer.headers["x-request-id"] == f"id-{user}"
    assert arrived.all("x-request-id") == [f"id-{user}"]
    assert arrived.all("content-length") == [str(len(arrived.body))]
    if tier == "gateway":
        assert arrived.all("content-type") == ["application/json"]


def test_headers_of_one_hop_or_tier_are_not_forwarded(attacked: Attacked) -> None:
    private = (
        b"connection: close, x-named",
        b"x-named: 1",
        b"keep-alive: 5",
        b"proxy-authorization: Basic eA==",
        b"proxy-connection: close",
        b"te: trailers",
        b"trailer: x-trailer",
        b"authorization: Bearer secret",
        b"x-api-key: secret",
        b"x-manager-token: secret",
        b"x-vision-keep-alive: 5",
        b"cookie: a=secret",
    )
    user = f"private-{next(_NUMBERS)}-"
    outcome = attacked.send("gateway", request(path_of("gateway"), body(user), *private))
    assert outcome.statuses == [200]
    (arrived,) = attacked.arrived(user)
    names = {line.partition(b":")[0].decode() for line in private}
    assert not names & {key for key, _ in arrived.headers}
    assert "secret" not in arrived.head
