"""Requests that two servers in a row could read differently, sent to the gateway and to the manager.

Each ends in one of four ways, the same on both hops: it is refused with a 400 and the connection is
closed; or it is read as one request, as two, or as the last one of its connection. The worker gets what
was read, byte for byte, in a frame that is ours; the request that hides in the other reaches nobody.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testkit import plain
from tests.security.hops import (
    ALIAS,
    CHAT,
    TIERS,
    Attacked,
    body,
    head,
    path_of,
    request,
    under_attack,
)

pytestmark = pytest.mark.process

Build = Callable[[bytes, bytes, bytes], bytes]  # path, body, hidden request -> what is sent
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with under_attack(tmp_path_factory.mktemp("smuggling")) as attacked:
        assert all(attacked.is_alive(tier) for tier in TIERS)
        yield attacked


def chunked(data: bytes, *, trailers: bytes = b"") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)


def fields(*lines: bytes, version: bytes = b"1.1") -> Build:
    """The body as it is, after these header lines (``%d``: its length), and the hidden request."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framing = [line % len(data) if b"%" in line else line for line in lines]
        return head(path, *framing, version=version) + data + hidden

    return build


def coded(*lines: bytes) -> Build:
    """The body in one chunk, after these header lines, and the hidden request."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framing = [line % len(data) if b"%" in line else line for line in lines]
        return head(path, *framing) + chunked(data) + hidden

    return build


def chunks(frame: bytes, *, hides: bool = False) -> Build:
    """A chunked body framed by hand: ``SIZE``, ``DATA``, and behind it the hidden request."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framed = frame.replace(b"SIZE", b"%x" % len(data)).replace(b"DATA", data)
        return head(path, b"transfer-encoding: chunked") + framed + (hidden if hides else b"")

    return build


def start(line: bytes) -> Build:
    """A decent request behind another first line; ``PATH`` is the path."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        lines = (line.replace(b"PATH", path), b"host: localhost", b"content-length: %d" % len(data))
        return b"\r\n".join([*lines, b"", data])

    return build


LENGTH, CHUNKED = b"content-length: %d", b"transfer-encoding: chunked"

REFUSED: dict[str, Build] = {
    # Two lengths, or none that is one.
    "CL.TE": coded(LENGTH, CHUNKED),
    "TE.CL": coded(CHUNKED, b"content-length: 4"),
    "CL 0 and TE": coded(b"content-length: 0", CHUNKED),
    "two lengths": fields(LENGTH, b"content-length: 0"),
    "two equal lengths": fields(LENGTH, LENGTH),
    "a list of lengths": fields(b"content-length: 5, %d"),
    "length +5": fields(b"content-length: +%d"),
    "length -5": fields(b"content-length: -%d"),
    "length 0x5": fields(b"content-length: 0x%d"),
    "length 5.0": fields(b"content-length: %d.0"),
    "length 5e0": fields(b"content-length: %de0"),
    "length 5 5": fields(b"content-length: %d 5"),
    "length 1_5": fields(b"content-length: 1_%d"),
    'length "5"': fields(b'content-length: "%d"'),
    "length of 5,": fields(b"content-length: %d,"),
    "length of nothing": fields(b"content-length:"),
    "length beyond 64 bits": fields(b"content-length: 18446744073709551616"),
    "length that wraps to 5": fields(b"content-length: 1844674407370955161%d"),
    "space before the colon of CL": fields(b"content-length : %d"),
    "tab before the colon of CL": fields(b"content-length\t: %d"),
    # Codings that one server knows and another does not.
    "TE identity": coded(b"transfer-encoding: identity"),
    "TE identity and CL": fields(LENGTH, b"transfer-encoding: identity"),
    "TE xchunked": coded(b"transfer-encoding: xchunked"),
    "TE chunked, identity": coded(b"transfer-encoding: chunked, identity"),
    "TE chunked, chunked": coded(b"transfer-encoding: chunked, chunked"),
    "TE twice": coded(CHUNKED, CHUNKED),
    "TE chunked, then another": coded(CHUNKED, b"transfer-encoding: cow"),
    "TE quoted": coded(b'transfer-encoding: "chunked"'),
    "TE with a parameter": coded(b"transfer-encoding: chunked;q=1"),
    "TE of nothing": coded(b"transfer-encoding:"),
    "TE behind a vertical tab": coded(b"transfer-encoding: \x0bchunked"),
    "TE before a vertical tab": coded(b"transfer-encoding: chunked\x0b"),
    "TE with a NUL": coded(b"transfer-encoding: chunked\x00"),
    "TE with a foreign letter": coded(b"transfer-encoding: chu\xffnked"),
    "space before the colon of TE": coded(b"transfer-encoding : chunked"),
    # Lines that one server joins and another splits.
    "folded TE": coded(b"transfer-encoding:\r\n chunked"),
    "folded CL": fields(b"content-length:\r\n %d"),
    "TE folded into another": coded(b"x-a: b\r\n\ttransfer-encoding: chunked"),
    "space before the first header": fields(b" x-a: b", LENGTH),
    "LF for line ends": lambda path, data, hidden: request(path, data).replace(b"\r\n", b"\n"),
    "LF after one header": fields(b"x-a: b\nx-b: c", LENGTH),
    "TE after LF": coded(b"x-a: b\ntransfer-encoding: chunked", LENGTH),
    "TE after CR": coded(b"x-a: b\rtransfer-encoding: chunked", LENGTH),
    "CR CR LF": fields(b"x-a: b\r", LENGTH),
    "LF as the blank line": lambda path, data, hidden: (
        head(path, LENGTH % len(data))[:-2] + b"\n" + data
    ),
    "NUL in a value": fields(b"x-a: b\x00c", LENGTH),
    "NUL in a name": fields(b"x\x00a: b", LENGTH),
    "control characters in a value": fields(b"x-a: b\x01\x7fc", LENGTH),
    "a line without a colon": fields(b"nonsense", LENGTH),
    "a header without a name": fields(b": b", LENGTH),
    # Chunks.
    "chunk size 0x5": chunks(b"0xSIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk size +5": chunks(b"+SIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk size -5": chunks(b"-SIZE\r\nDATA\r\n0\r\n\r\n"),
    "space before a chunk size": chunks(b" SIZE\r\nDATA\r\n0\r\n\r\n"),
    "space after a chunk size": chunks(b"SIZE \r\nDATA\r\n0\r\n\r\n"),
    "chunk size 1_0": chunks(b"1_0\r\nDATA\r\n0\r\n\r\n"),
    "no chunk size": chunks(b"\r\nDATA\r\n0\r\n\r\n"),
    "chunk size that is no number": chunks(b"g\r\nDATA\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunks(b"100000000000000SIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk longer than it says": chunks(b"SIZE\r\nDATAXX\r\n0\r\n\r\n", hides=True),
    "no CRLF after a chunk": chunks(b"SIZE\r\nDATA0\r\n\r\n", hides=True),
    "LF after a chunk": chunks(b"SIZE\r\nDATA\n0\r\n\r\n", hides=True),
    "LF after a chunk size": chunks(b"SIZE\nDATA\r\n0\r\n\r\n", hides=True),
    "CR after a chunk size": chunks(b"SIZE\rDATA\r\n0\r\n\r\n", hides=True),
    "LF after the last chunk": chunks(b"SIZE\r\nDATA\r\n0\n\n", hides=True),
    "extension that ends in LF": chunks(b"SIZE;a\nDATA\r\n0\r\n\r\n", hides=True),
    "extension with CR": chunks(b"SIZE;a\rb\r\nDATA\r\n0\r\n\r\n", hides=True),
    "extension with a quoted line end": chunks(b'SIZE;a="\r\n"\r\nDATA\r\n0\r\n\r\n', hides=True),
    "trailer with a length": chunks(b"SIZE\r\nDATA\r\n0\r\ncontent-length: 5\r\n\r\n", hides=True),
    "a request in place of trailers": chunks(b"SIZE\r\nDATA\r\n0\r\n", hides=True),
    # Targets and versions.
    "target with a space": start(b"POST PATH x HTTP/1.1"),
    "tabs in the first line": start(b"POST\tPATH\tHTTP/1.1"),
    "target with bytes that are no ASCII": start(b"POST PATH\xff\x85 HTTP/1.1"),
    "target without a slash": start(b"POST v1 HTTP/1.1"),
    "authority for a target": start(b"POST 127.0.0.1:22 HTTP/1.1"),
    "CONNECT": start(b"CONNECT 127.0.0.1:22 HTTP/1.1"),
    "a method of one's own": start(b"SMUGGLE PATH HTTP/1.1"),
    "a method in small letters": start(b"post PATH HTTP/1.1"),
    "HTTP/1.2": start(b"POST PATH HTTP/1.2"),
    "HTTP/11": start(b"POST PATH HTTP/11"),
    "http/1.1": start(b"POST PATH http/1.1"),
    "preface of HTTP/2": lambda path, data, hidden: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
    "hello of TLS": lambda path, data, hidden: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + hidden,
}

# The length of the body is not in doubt: odd, and allowed, or ignored.
READ_AS_ONE: dict[str, Build] = {
    "plain": start(b"POST PATH HTTP/1.1"),
    "chunked": lambda path, data, hidden: head(path, CHUNKED) + chunked(data),
    "many chunks": lambda path, data, hidden: (
        head(path, CHUNKED) + b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    ),
    "chunk size with zeros": chunks(b"0000000000000000000SIZE\r\nDATA\r\n000\r\n\r\n"),
    "chunk extension": chunks(b'SIZE;a=b;c="d"\r\nDATA\r\n0;e\r\n\r\n'),
    "trailers": chunks(b"SIZE\r\nDATA\r\n0\r\nx-trailer: 1\r\nauthorization: Bearer x\r\n\r\n"),
    "a thousand trailers": chunks(b"SIZE\r\nDATA\r\n0\r\n" + b"x-trailer: 1\r\n" * 1000 + b"\r\n"),
    "CRLF before the request": lambda path, data, hidden: b"\r\n\r\n" + request(path, data),
    "spaces in the first line": start(b"POST  PATH  HTTP/1.1"),
    "absolute target": start(b"POST http://127.0.0.1PATH HTTP/1.1"),
    "absolute target with a user": start(b"POST http://user:word@127.0.0.1PATH HTTP/1.1"),
    "target with a fragment": start(b"POST PATH#part HTTP/1.1"),
    "Expect": lambda path, data, hidden: head(path, b"expect: 200-ok", LENGTH % len(data)) + data,
    "upgrade to HTTP/2": lambda path, data, hidden: (
        head(
            path,
            b"connection: Upgrade, HTTP2-Settings",
            b"upgrade: h2c",
            b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA",
            LENGTH % len(data),
        )
        + data
    ),
    "upgrade to a WebSocket, chunked": lambda path, data, hidden: (
        head(path, b"connection: upgrade", b"upgrade: websocket", CHUNKED) + chunked(data)
    ),
}

READ_AS_TWO: dict[str, Build] = {
    "pipelined": fields(LENGTH),
    "pipelined, chunked": coded(CHUNKED),
    "spaces around the length": fields(b"content-length: \t %d \t "),
    "zeros before the length": fields(b"content-length: 000%d"),
    "CHUNKED": coded(b"TRANSFER-ENCODING: \t CHUNKED  "),
    "TE identity, chunked": coded(b"transfer-encoding: identity, chunked"),
    "behind an upgrade": fields(b"connection: upgrade", b"upgrade: h2c", LENGTH),
    "a header that is none of CL": fields(LENGTH, b"content_length: 0"),
}

READ_AS_THE_LAST: dict[str, Build] = {
    "HTTP/1.0": fields(LENGTH, version=b"1.0"),
    "HTTP/1.0 that wants to stay": fields(b"connection: keep-alive", LENGTH, version=b"1.0"),
    "HTTP/1.0 with chunks": lambda path, data, hidden: (
        head(path, CHUNKED, version=b"1.0") + chunked(data) + hidden
    ),
    "HTTP/2.0 in words": fields(LENGTH, version=b"2.0"),
    "connection: close": fields(b"connection: close", LENGTH),
}

ATTACKS = [
    pytest.param(build, read, id=name)
    for table, read in (
        (REFUSED, ()),
        (READ_AS_ONE, ("open", "next")),
        (READ_AS_TWO, ("open", "hidden", "next")),
        (READ_AS_THE_LAST, ("open",)),
    )
    for name, build in table.items()
]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("build", "read"), ATTACKS)
def test_ambiguous_requests_are_read_in_one_way(
    attacked: Attacked, tier: str, build: Build, read: tuple[str, ...]
) -> None:
    """*read*: the requests that are there: the open one, the one behind it, and the one after both."""
    number = next(_NUMBERS)
    users = {name: f"{name}-{number}-" for name in ("open", "hidden", "next")}
    path = path_of(tier)
    hidden = request(path, body(users["hidden"]))
    last = request(path, body(users["next"]), b"connection: close")
    outcome = attacked.send(tier, build(path, body(users["open"]), hidden) + last)

    assert outcome.closed
    assert outcome.rest == b""
    if not read:
        assert outcome.statuses == [400]
    else:
        assert outcome.statuses == [200] * len(read)
        assert [json.loads(answer.body)["user"] for answer in outcome.answers] == [
            users[name] for name in read
        ]
    for name, user in users.items():
        arrived = attacked.arrived(user)
        assert len(arrived) == (name in read), name
        for one in arrived:
            assert one.head.startswith(f"POST {CHAT} HTTP/1.1\r\n")
            assert one.body == body(user).decode()
            assert framing(one.headers) in (
                [("content-length", str(len(one.body)))],
                *([[("transfer-encoding", "chunked")]] if tier == "manager" else []),
            )
            assert not {"x-trailer", "upgrade", "http2-settings", "expect"} & {
                k for k, _ in one.headers
            }


def framing(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(k, v) for k, v in headers if k in ("content-length", "transfer-encoding")]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "unfinished",
    [
        LENGTH % 100 + b"\r\n\r\n{",
        CHUNKED + b"\r\n\r\nffffffffffffffff\r\n{",
        CHUNKED + b"\r\n\r\n1\r\n{\r\n",
    ],
    ids=["length", "one chunk", "no last chunk"],
)
def test_an_unfinished_body_takes_nothing_of_the_next_client(
    attacked: Attacked, tier: str, unfinished: bytes
) -> None:
    user = f"waits-{next(_NUMBERS)}-"
    marked = head(path_of(tier), b"x-request-id: " + user.encode())[:-2]
    outcome = attacked.send(tier, marked + unfinished, expect=0)
    assert (outcome.statuses, attacked.arrived(user)) == ([], [])
    assert attacked.is_alive(tier)


@pytest.mark.parametrize("tier", TIERS)
def test_a_continue_is_sent_once_before_the_response(attacked: Attacked, tier: str) -> None:
    user = f"continue-{next(_NUMBERS)}-"
    data = body(user)
    first = head(path_of(tier), b"expect: 100-continue", b"connection: close", LENGTH % len(data))
    with attacked.connection(tier) as sock:
        sock.sendall(first)
        assert sock.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        answered = attacked.read(sock)
    assert [json.loads(answer.body)["user"] for answer in answered.answers] == [user]
    (arrived,) = attacked.arrived(user)
    assert arrived.all("expect") == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("frame", ["length", "chunks"])
def test_an_unexpected_body_is_not_the_next_request(attacked: Attacked, tier: str, frame: str) -> None:
    hidden = request(path_of(tier), body(user := f"in-a-get-{next(_NUMBERS)}-"))
    framing = LENGTH % len(hidden) if frame == "length" else CHUNKED
    sent = hidden if frame == "length" else chunked(hidden)
    last = request(path_of(tier), body("next"), b"connection: close")
    outcome = attacked.send(tier, head(b"/docs", framing, method=b"GET") + sent + last)
    assert len(outcome.answers) == 2
    assert outcome.statuses[1] == 200
    assert attacked.arrived(user) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_body_behind_a_refusal_is_not_the_next_request(attacked: Attacked, tier: str) -> None:
    """The answer comes before the body has been read."""
    hidden = request(path_of(tier), body(user := f"refused-{next(_NUMBERS)}-"))
    wrong = b"/v1/nothing" if tier == "gateway" else b"/workers/nobody/x"
    last = request(path_of(tier), body("next"), b"connection: close")
    outcome = attacked.send(tier, head(wrong, LENGTH % len(hidden)) + hidden + last)
    assert outcome.statuses == [404, 200]
    assert attacked.arrived(user) == []


# --- connections that are shared ------------------------------------------------------------------


def test_the_rest_of_a_body_does_not_precede_the_next_client_s_request(
    attacked: Attacked,
) -> None:
    """The manager passes bodies on as they come: the connection to the worker is spoilt, and closed."""
    size = 1 << 20
    path = b"/workers/%b/echo?half" % ALIAS.encode()
    with attacked.connection("manager") as sock:
        sock.sendall(head(path, LENGTH % size) + bytes(size // 2))
    users = [f"after-half-{next(_NUMBERS)}-" for _ in range(5)]
    for user in users:
        outcome = attacked.send(
            "manager", request(path_of("manager"), body(user), b"connection: close")
        )
        assert json.loads(outcome.answers[0].body)["user"] == user
    assert [len(attacked.arrived(user)) for user in users] == [1] * 5
    assert attacked.arrived("echo?half") == []


def test_an_unread_response_does_not_reach_the_next_client(attacked: Attacked) -> None:
    path = b"/workers/%b/blob?bytes=%d" % (ALIAS.encode(), 1 << 24)
    for _ in range(5):
        with attacked.connection("manager") as sock:
            sock.sendall(head(path, b"content-length: 0"))
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        user = f"after-answer-{next(_NUMBERS)}-"
        outcome = attacked.send(
            "manager", request(path_of("manager"), body(user), b"connection: close")
        )
        assert json.loads(outcome.answers[0].body)["user"] == user


@pytest.mark.parametrize("tier", TIERS)
def test_each_client_gets_its_own_response_during_attacks(attacked: Attacked, tier: str) -> None:
    builds = list(REFUSED.values())

    def ask(number: int) -> None:
        user = f"{tier}-many-{number}-"
        hidden = request(path_of(tier), body("hidden-among-many"))
        attack = builds[number % len(builds)](path_of(tier), body("refused-among-many"), hidden)
        attacked.send(tier, attack)
        answer = clients.post(attacked.url(tier), content=body(user))
        assert answer.json()["user"] == user

    with plain.Client(timeout=30) as clients, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))
    assert attacked.arrived("among-many") == []


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "given", [b"a b", b"a%0d%0ax-b: c", b'"><script>', b"\xc3\xa9", b"\xff", b"a" * 129, b"", b"a;b"]
)
def test_a_request_id_that_is_not_plain_is_not_forwarded(
    attacked: Attacked, tier: str, given: bytes
) -> None:
    user = f"id-{next(_NUMBERS)}-"
    sent = request(path_of(tier), body(user), b"x-request-id: " + given, b"connection: close")
    (answer,) = attacked.send(tier, sent).answers
    (arrived,) = attacked.arrived(user)
    assert answer.headers["x-request-id"].startswith("req_")
    assert arrived.all("x-request-id")[0].startswith("req_")


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
    # Only the gateway reads what a request says.
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
