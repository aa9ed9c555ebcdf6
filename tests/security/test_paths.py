"""Path traversal: each attempt is refused like any unknown name and touches nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.hops import ALIAS, TIERS, Attacked, head, under_attack

pytestmark = pytest.mark.process

# "{}" is where the name belongs.
ROUTES = {
    "gateway": [
        ("GET", "/v1/models/{}"),
        ("GET", "/v1/images/files/{}"),
        ("HEAD", "/v1/images/files/{}"),
        ("POST", "/v1/system/evict/{}"),
        ("POST", "/v1/system/warm/{}"),
    ],
    "manager": [
        ("POST", "/spawn/{}"),
        ("POST", "/stop/{}"),
        ("POST", "/touch/{}"),
        ("POST", "/pull/{}"),
        ("GET", "/logs/{}"),
        ("GET", "/workers/{}/health"),
        ("POST", "/workers/{}/v1/chat/completions"),
    ],
}
# Some lead out of a folder, some to the existing alias, some to another route of the same tier.
NAMES = [
    "..",
    ".",
    "../status",
    "../../etc/passwd",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "....//....//etc/passwd",
    "..;/..;/etc/passwd",
    "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8fetc",  # full-width
    "%u002e%u002e/etc",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "~root",
    "file:%2f%2f%2fetc%2fpasswd",
    "http:%2f%2f127.0.0.1:22%2f",
    "127.0.0.1:22",
    "@127.0.0.1:22",
    "%00",
    "a%0d%0aX-Evil:%201",
    "%E2%80%A6",
    f"{ALIAS}%00",
    f"{ALIAS}%00.png",
    f"{ALIAS}%2f..%2f{ALIAS}",
    f"{ALIAS}%0a{ALIAS}",
    f"{ALIAS}%20",
    f"{ALIAS}%09",
    f"{ALIAS}.",
    f"%2e/{ALIAS}",
    f"x/../{ALIAS}",
    ALIAS.upper(),
    "%d0%b0",  # a Cyrillic letter that looks like the alias
    "%cc%81",
    "%ff%fe",
    "%",
    "%2",
    "%zz",
    "*",
    "[a]",
    "{alias}",
    "$(id)",
    "`id`",
    "';--",
    "a" * 5000,
    "%2e%2e%2f" * 1000,
]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with under_attack(tmp_path_factory.mktemp("paths")) as attacked:
        yield attacked


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_path_traversal_name_is_unknown(attacked: Attacked, subtests: pytest.Subtests) -> None:
    for tier, name in itertools.product(TIERS, NAMES):
        with subtests.test(name[:30], tier=tier):
            before = files(attacked.stack.folder)
            for method, route in ROUTES[tier]:
                # A client library would normalize the path first.
                path = route.format(name).encode()
                raw = head(path, b"connection: close", b"content-length: 0", method=method.encode())
                outcome = attacked.send(tier, raw)
                if method == "HEAD" and not outcome.answers:  # a response without the announced body
                    assert outcome.rest.startswith(b"HTTP/1.1 404 ")
                    continue
                (answer,) = outcome.answers
                assert answer.status in (400, 404, 405, 414), (path, answer)
                if answer.headers["content-type"] == "application/json":
                    error = json.loads(answer.body)["error"]
                    assert error["source"] == tier
                    assert len(error["message"]) < 2100
                assert b"root:" not in answer.body
                assert "x-evil" not in answer.headers
            assert files(attacked.stack.folder) == before
            assert {state["status"] for state in attacked.stack.status()["models"].values()} == {
                "stopped"
            }
            assert attacked.arrived("") == []


@pytest.mark.parametrize(
    "path",
    [
        "../../status",
        "..%2f..%2fstatus",
        "%2e%2e/%2e%2e/status",
        "//127.0.0.1:22/",
        "@127.0.0.1:22/",
        "../b/x",
    ],
)
def test_the_path_after_an_alias_reaches_only_its_worker(
    tmp_path_factory: pytest.TempPathFactory, attacked: Attacked, path: str
) -> None:
    raw = head(f"/workers/{ALIAS}/{path}?marked".encode(), b"connection: close", method=b"GET")
    (answer,) = attacked.send("manager", raw).answers
    assert answer.status == 200
    reported = json.loads(answer.body)  # the fake worker returns the request
    assert reported["target"].startswith("/")
    port = attacked.stack.settings.models[ALIAS].port
    assert ["host", f"127.0.0.1:{port}"] in reported["headers"]
    attacked.stack.control(f"/stop/{ALIAS}")
