"""The log has one line per record: no client can add lines or terminal sequences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.logs import WorkerLog
from testkit import plain
from testkit.stacks import wait_for
from tests.security.hops import ALIAS, CHAT, HELLO, TIERS, Attacked, request, under_attack
from web.logs import printable

FORGED = "2026-11-26 10:00:00,123 INFO gateway: forged"
# Characters that end a line or move the cursor: C0, DEL, C1, Unicode line ends, direction marks.
NASTY = ("\n", "\r", "\r\n", "\x00", "\x08", "\x0b", "\x0c", "\x1b[2J", "\x1b]0;x\x07", "\x7f", "\x85",
         "\x9b2J", "\u2028", "\u2029", "\u202e", "\u2066")  # fmt: skip
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [a-z._]+: .*")


def quoted(text: str) -> str:
    """*text* percent-encoded to the last byte."""
    return "".join(f"%{byte:02x}" for byte in text.encode())


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with under_attack(tmp_path_factory.mktemp("logs")) as attacked:
        yield attacked


PATHS = {
    "gateway": (f"{CHAT}{{}}", "/v1/models/{}", "/v1/images/files/{}", "/v1/system/evict/{}", "/{}"),
    "manager": (f"/workers/{ALIAS}/{{}}", "/workers/{}/x", "/spawn/{}", "/stop/{}", "/logs/{}", "/{}"),
}


@pytest.mark.process
@pytest.mark.parametrize("tier", TIERS)
def test_a_request_can_not_write_a_log_line_of_its_own(attacked: Attacked, tier: str) -> None:
    """In paths, queries, ids, keys, model names, prompts, and data that is no request."""
    asked = 0
    for nasty in NASTY:
        text = f"before{nasty}{FORGED}"
        with plain.Client(timeout=20) as client:
            for path in PATHS[tier]:
                for method in ("GET", "POST"):
                    client.request(method, attacked.url(tier, path.format(quoted(text))))
            client.post(attacked.url(tier) + "?a=" + quoted(text), json={**HELLO, "user": text})
            client.post(attacked.url(tier), json={**HELLO, "model": text})
            client.post(attacked.url(tier), json={text: {text: text}})
        field = text.encode("utf-8").replace(b"\n", b" ").replace(b"\r", b" ").replace(b"\0", b" ")
        for name in (b"x-request-id", b"authorization", b"x-vision-keep-alive", b"x-api-key", b"host"):
            sent = request(
                b"/v1/models", b"", name + b": " + field, b"connection: close", method=b"GET"
            )
            attacked.send(tier, sent)
        attacked.send(tier, text.encode() + b"\r\n\r\n")
        asked += 1
    assert asked == len(NASTY)
    last = plain.post(attacked.url(tier), json=HELLO, headers={"x-request-id": "the-last"}, timeout=20)
    assert last.status_code == 200
    wait_for(lambda: "the-last" in attacked.stack.log(tier))
    raw = attacked.stack.log_file(tier).read_bytes().decode()
    lines = raw.removesuffix("\n").split("\n")
    assert [line for line in lines if not _LINE.fullmatch(line)] == []
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith(FORGED)] == []


@given(st.text(st.characters(exclude_categories=())))
def test_printable_text_has_one_line_and_fits_into_utf_8(text: str) -> None:
    escaped = printable(text)
    assert escaped.isprintable()
    assert escaped.encode().decode() == escaped
    assert (escaped == text) == text.isprintable()


@pytest.mark.parametrize("nasty", NASTY)
def test_a_worker_s_lines_contain_no_terminal_sequences(tmp_path: Path, nasty: str) -> None:
    log = WorkerLog(tmp_path / "a.log", 1 << 20)
    log.write(f"before{nasty}after\n".encode())
    assert all(line.isprintable() for line in log.last_lines())
    assert "after" in json.dumps(log.last_lines())
    log.close()
