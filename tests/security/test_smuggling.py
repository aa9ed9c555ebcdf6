"""Request smuggling: two servers in a row must read the same requests, and no others.

Each request of ``smuggling`` ends in one of four ways, the same on both hops: it is refused with a 400
and the connection is closed, or it is read as one request, as two, or as the last one of a connection.
The worker gets the bytes that were read, with our own framing. A hidden request reaches nobody.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testkit import plain
from tests.security.hops import ALIAS, CHAT, TIERS, Attacked, body, head, path_of, request, under_attack
from tests.security.smuggling import ATTACKS, CHUNKED, LENGTH, REFUSED, chunked

pytestmark = pytest.mark.process

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with under_attack(tmp_path_factory.mktemp("smuggling")) as attacked:
        assert all(attacked.is_alive(tier) for tier in TIERS)
        yield attacked


def test_ambiguous_requests_are_read_in_one_way(attacked: Attacked, subtests: pytest.Subtests) -> None:
    """*read*: the requests that must be read: the open one, the hidden one, and the one after both."""
    for tier, (attack, build, read) in itertools.product(TIERS, ATTACKS):
        with subtests.test(attack, tier=tier):
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
def test_an_unfinished_body_takes_no_bytes_of_the_next_client(
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
def test_the_body_of_a_refused_request_is_not_the_next_request(attacked: Attacked, tier: str) -> None:
    """The response is sent before the body has been read."""
    hidden = request(path_of(tier), body(user := f"refused-{next(_NUMBERS)}-"))
    wrong = b"/v1/nothing" if tier == "gateway" else b"/workers/nobody/x"
    last = request(path_of(tier), body("next"), b"connection: close")
    outcome = attacked.send(tier, head(wrong, LENGTH % len(hidden)) + hidden + last)
    assert outcome.statuses == [404, 200]
    assert attacked.arrived(user) == []


# --- connections that are shared ------------------------------------------------------------------


def test_the_rest_of_a_body_does_not_precede_the_next_client_s_request(attacked: Attacked) -> None:
    """The manager forwards bodies as they arrive: it must close a connection with half a body."""
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
