"""Named keys: their sources, their comparison, and that nothing ever shows one."""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from contracts.settings.file import SettingsError, load
from contracts.settings.gateway import PLACEHOLDER_KEY
from gateway.app import create_app
from gateway.auth import Keyring, given_key, read_keyring
from manager.app import ManagerApp
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import CONFIG, make_settings
from tests.gateway.stand_in import StandIn

CANARY = "CANARY-sk-31f7"


def keyring(tmp_path: Path, gateway: str, environ: dict[str, str] | None = None) -> Keyring:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG + f"gateway: {gateway}\n")
    return read_keyring(load(file, environ or {}).gateway)


def keys_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_keys_come_from_the_settings_the_environment_and_a_file_and_each_has_a_name(
    tmp_path: Path,
) -> None:
    keys_file(tmp_path, "# of the house\nphone: k-phone\nlaptop: 12345\n\n")
    ring = keyring(tmp_path, "{api_key: k-old, keys: {tv: k-tv}, keys_file: keys}")
    names = {key: ring.name_of(key) for key in (b"k-phone", b"12345", b"k-old", b"k-tv")}
    assert names == {b"k-phone": "phone", b"12345": "laptop", b"k-old": "default", b"k-tv": "tv"}
    given = {"GATEWAY_API_KEYS": "cam=k-cam, door=k=door", "GATEWAY_KEYS_FILE": str(tmp_path / "keys")}
    ring = keyring(tmp_path, "{keys: {tv: k-tv}}", given)
    assert [ring.name_of(key) for key in (b"k-cam", b"k=door", b"k-phone")] == ["cam", "door", "phone"]
    assert ring.name_of(b"k-tv") is None, "the environment wins over the file"


def test_invalid_keys_are_refused(tmp_path: Path) -> None:
    ring = keyring(tmp_path, "{keys: {tv: k-tv}}")
    assert [ring.name_of(key) for key in (b"", b"k-t", b"k-tv ", b"K-TV", b"\xff", b"tv")] == [None] * 6


def test_the_bearer_token_wins_over_the_other_header() -> None:
    headers = [(b"Authorization", b"Bearer one"), (b"X-API-Key", b"two")]
    assert given_key(headers) == b"one"
    assert given_key([]) is None


def test_without_any_key_the_api_is_open(tmp_path: Path) -> None:
    assert not keyring(tmp_path, f"{{api_key: {PLACEHOLDER_KEY}}}")
    keys_file(tmp_path, "")
    assert not keyring(tmp_path, "{keys_file: keys}")


def test_a_key_is_compared_with_all_in_constant_time_and_never_looked_up() -> None:
    source = ast.parse(textwrap.dedent(inspect.getsource(Keyring.name_of)))
    called = [ast.unparse(node.func) for node in ast.walk(source) if isinstance(node, ast.Call)]
    assert called == ["hmac.compare_digest"]
    leaving = (ast.Break, ast.Continue, ast.Compare, ast.Subscript)
    assert not [node for node in ast.walk(source) if isinstance(node, leaving)]
    assert sum(isinstance(node, ast.Return) for node in ast.walk(source)) == 1


@pytest.mark.parametrize(
    ("gateway", "text", "expected"),
    [
        ("{keys: {a: CANARY-1 x}}", "", "key 'a'"),
        ("{keys: {'a b': CANARY-1}}", "", "key names have"),
        ("{keys: {a: 5}}", "", "gateway.keys.a"),
        ("{keys: [CANARY-1]}", "", "gateway.keys"),
        ("{keys: {a: CANARY-1, b: CANARY-1}}", "", "'a' and 'b' have the same key"),
        ("{keys: {default: CANARY-1}, api_key: CANARY-2}", "", "a key named 'default' exists already"),
        (f"{{keys: {{a: {PLACEHOLDER_KEY}}}}}", "", "placeholder"),
        ("{api_key: [CANARY-1]}", "", "gateway.api_key"),
        ("{api_key: !CANARY-1 }", "", "needs quotes"),
        ("{api_key: *CANARY-1 }", "", "needs quotes"),
        ("{keys_file: nowhere}", "", "nowhere: can't read gateway.keys_file: No such file"),
        ("{keys_file: keys}", "a: CANARY-1\nCANARY-2\n", "keys:"),
        ("{keys_file: keys}", "CANARY-2", "keys:1: expected lines"),
        ("{keys_file: keys}", "- CANARY-2", "keys:1: expected lines"),
        ("{keys_file: keys}", "a: CANARY-1\na: CANARY-2", "keys:2: 'a' is repeated"),
        ("{keys_file: keys}", "a: [CANARY-2]", "keys:1: expected lines"),
        ("{keys_file: keys}", "a: {b: CANARY-2", "keys:"),
        ("{keys_file: keys}", "a: 'CANARY-2 x'", "keys:1: key 'a'"),
        ("{keys_file: keys}", "a:", "keys:1: key 'a'"),
        ("{keys_file: keys}", "a: *CANARY-2", "keys:1: expected lines"),
        ("{keys: {a: CANARY-1}, keys_file: keys}", "a: CANARY-2", "a key named 'a' exists already"),
    ],
)
def test_key_errors_name_the_place_and_never_a_key(
    tmp_path: Path, gateway: str, text: str, expected: str
) -> None:
    keys_file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        keyring(tmp_path, gateway)
    reported = str(caught.value)
    assert expected in reported
    assert "CANARY" not in reported
    # What a traceback shows of the errors behind it, without the lines of this test.
    chain = "".join(
        line for line in traceback.format_exception(caught.value) if "CANARY-" in line and "E " in line
    )
    assert "CANARY" not in chain


@pytest.mark.parametrize(
    "text", ["CANARY-1", "a=CANARY-1,CANARY-2", "a=CANARY-1,a=CANARY-2", "a=", ","]
)
def test_a_broken_variable_is_reported_without_a_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        keyring(tmp_path, "{}", {"GATEWAY_API_KEYS": text})
    assert "CANARY" not in str(caught.value)


def test_a_world_readable_key_file_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys_file(tmp_path, "a: k", 0o644)
    keyring(tmp_path, "{keys_file: keys}")
    assert "chmod 600" in caplog.text
    caplog.clear()
    keys_file(tmp_path, "a: k", 0o600)
    keyring(tmp_path, "{keys_file: keys}")
    assert caplog.text == ""


# --- nothing shows a key --------------------------------------------------------------------------


def test_a_key_is_never_in_a_response_a_log_or_a_repr(
    tmp_path: Path, manager: StandIn, manager_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for quiet in ("httpcore", "hpack"):  # the test's own client, which logs what it sends
        caplog.set_level(logging.INFO, logger=quiet)
    keys_file(tmp_path, f"laptop: {CANARY}-file\n")
    settings = make_settings(
        tmp_path,
        manager_url,
        f"gateway: {{api_key: {CANARY}-old, keys: {{phone: {CANARY}-named}}, keys_file: keys}}\n"
        f"manager: {{token: {CANARY}-token}}\n",
    )
    seen: list[str] = [repr(settings), str(settings), repr(settings.gateway), repr(settings.manager)]

    def note(answer: httpx.Response) -> None:
        seen.append(answer.text)
        seen.extend(f"{key}: {value}" for key, value in answer.headers.items())

    asks: list[Callable[[httpx.Client, dict[str, str]], httpx.Response]] = [
        lambda http, headers: http.get("/v1/models", headers=headers),
        lambda http, headers: http.get("/v1/models/nope", headers=headers),
        lambda http, headers: http.get("/v1/system/status", headers=headers),
        lambda http, headers: http.get("/v1/nope", headers=headers),
        lambda http, headers: http.get("/healthz", headers=headers),
        lambda http, headers: http.post("/v1/system/evict/a", headers=headers),
        lambda http, headers: http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hi"}]},
            headers=headers,
        ),
        lambda http, headers: http.post("/v1/chat/completions", content=b"{", headers=headers),
    ]
    keys = [f"{CANARY}-{which}" for which in ("old", "named", "file", "wrong")]
    app = create_app(settings)
    seen.append(repr(app))
    with served(app) as url, plain.Client(base_url=url) as http:
        for key in keys:
            for ask in asks:
                note(ask(http, {"authorization": f"Bearer {key}"}))
                note(ask(http, {"x-api-key": key}))
    with served(ManagerApp(settings)) as url, plain.Client(base_url=url) as http:
        for headers in ({}, {"authorization": f"Bearer {CANARY}-token"}, {"x-manager-token": CANARY}):
            for path in ("/health", "/status", "/nope"):
                note(http.get(path, headers=headers))
    seen.extend(caplog.text.splitlines())
    assert [text for text in seen if CANARY in text] == []
    assert "key=phone" in caplog.text, "the name is reported"
    assert "key=laptop" in caplog.text
    forwarded = [str(received.headers) for received in manager.received]
    assert [text for text in forwarded if f"{CANARY}-token" not in text] == []
    assert [text for text in forwarded if any(key in text for key in keys)] == []
