"""Where image URLs are accepted, what replaces them, and which settings apply."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.wire import parse_json
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.images import ImageEditRequest
from testkit.images import GREEN_STAR, RED_CIRCLE, png
from tests.gateway.stand_in import StandIn
from tests.security.conftest import ALLOWED, PARAM, Names, chat, gateway, problem
from tests.security.elsewhere import Elsewhere, answer

CHAT = "/v1/chat/completions"
ANALYZE = "/v1/vision/analyze"
EDITS = "/v1/images/edits"
STAR, CIRCLE = png(GREEN_STAR), png(RED_CIRCLE)
B64 = base64.b64encode(CIRCLE).decode()
STAR_URI = f"data:image/png;base64,{base64.b64encode(STAR).decode()}"


@pytest.fixture
def url(there: Elsewhere) -> str:
    there.pages["/star"] = answer(STAR)
    return there.url("/star")


def sent(manager: StandIn) -> Any:
    (received,) = manager.received
    return json.loads(received.body)


# --- where URLs are accepted ----------------------------------------------------------------------

PLACES: list[tuple[str, Callable[[str], Any], str]] = [
    (ANALYZE, lambda url: {"image": url, "task": "ocr"}, "image"),
    (EDITS, lambda url: {"prompt": "p", "image": url}, "image"),
    (EDITS, lambda url: {"prompt": "p", "image": [url]}, "image"),
    (EDITS, lambda url: {"prompt": "p", "image": B64, "mask": url}, "mask"),
    (EDITS, lambda url: {"prompt": "p", "image": B64, "mask": {"image_url": url}}, "mask"),
    (EDITS, lambda url: {"prompt": "p", "images": [{"image_url": url}]}, "images[0].image_url"),
    (
        EDITS,
        lambda url: {
            "prompt": "p",
            "model": "klein",
            "images": [{"image_url": B64}, {"image_url": url}],
        },
        "images[1].image_url",
    ),
    (EDITS, lambda url: {"prompt": "p", "model": "klein", "image": [B64, url]}, "image[1]"),
]


@pytest.mark.parametrize(("path", "body", "param"), PLACES)
def test_every_image_field_accepts_a_url(
    client: httpx.Client, manager: StandIn, url: str, path: str, body: Any, param: str
) -> None:
    def raw(image: str) -> bytes:
        return json.dumps({**body(image), "unknown": ["한글", 1e300, 2**70]}).encode()

    assert client.post(path, content=raw(url)).status_code == 200
    (received,) = manager.received
    assert received.headers["content-length"] == str(len(received.body))
    kind: Any = AnalyzeRequest if path == ANALYZE else ImageEditRequest
    assert parse_json(kind, received.body) == parse_json(kind, raw(STAR_URI))
    assert url.encode() not in received.body


@pytest.mark.parametrize(("path", "body", "param"), PLACES)
def test_a_failed_fetch_names_its_field(
    client: httpx.Client, manager: StandIn, url: str, path: str, body: Any, param: str
) -> None:
    error = problem(client.post(path, json=body(f"{url}less")))
    assert (error["param"], error["code"]) == (param, "invalid_image_url")
    assert "404" in error["message"]
    assert manager.received == []


def test_images_of_a_chat_are_replaced_over_all_turns_and_fetched_once_each(
    client: httpx.Client, manager: StandIn, there: Elsewhere, url: str
) -> None:
    there.pages["/circle"] = answer(CIRCLE)
    circle = there.url("/circle")
    raw = chat(url, circle, url)
    raw["messages"].append({"role": "assistant", "content": url})  # text, not an image
    raw["messages"] += chat(f"data:image/png;base64,{B64}", circle)["messages"]
    assert client.post(CHAT, json=raw).status_code == 200
    messages = sent(manager)["messages"]
    images = [
        p["image_url"]["url"]
        for m in messages
        for p in m["content"]
        if isinstance(p, dict) and "image_url" in p
    ]
    star, blue = STAR_URI, f"data:image/png;base64,{B64}"
    assert images == [star, blue, star, blue, blue]
    assert messages[1]["content"] == url
    assert sorted(there.paths) == ["/circle", "/star"]


def test_a_text_field_of_a_form_may_be_a_url(client: httpx.Client, manager: StandIn, url: str) -> None:
    form = {"prompt": "p", "image": url, "mask": url}
    files = [("other", b"")]
    assert client.post(EDITS, data=form, files=files).status_code == 200
    assert sent(manager)["image"] == [STAR_URI]
    assert sent(manager)["mask"] == STAR_URI


def test_a_file_id_is_refused_by_name(client: httpx.Client) -> None:
    for body, param in (
        ({"images": [{"file_id": "file-1"}]}, "images[0].file_id"),
        ({"image": B64, "mask": {"file_id": "file-1"}}, "mask.file_id"),
        ({"images": [{}]}, "images[0].image_url"),
        ({"images": []}, "images"),
        ({"image": B64, "images": [{"image_url": B64}]}, "images"),
    ):
        error = problem(client.post(EDITS, json={"prompt": "p", **body}))
        assert error["param"] == param


def test_openai_s_json_form_is_forwarded_byte_for_byte_when_nothing_is_fetched(
    client: httpx.Client, manager: StandIn
) -> None:
    raw = json.dumps({"images": [{"image_url": STAR_URI}], "prompt": "p"}, indent=3).encode()
    assert client.post(EDITS, content=raw).status_code == 200
    assert manager.received[0].body == raw


def test_a_body_with_repeated_fields_is_sent_as_it_was_checked(
    client: httpx.Client, manager: StandIn, there: Elsewhere, url: str
) -> None:
    for raw in (
        f'{{"image": "{url}", "image": {{"x": "{url}"}}}}',
        f'{{"image": "{url}", "image": "{B64}"}}',
        f'{{"image": "{B64}", "image": "{url}"}}',
        f'{{"image": "http://10.0.0.1/", "image": "{url}"}}',
    ):
        manager.reset()
        if client.post(ANALYZE, content=raw.encode()).status_code == 200:
            assert sent(manager)["image"] in (STAR_URI, B64)
        else:
            assert manager.received == []
    assert set(there.paths) <= {"/star"}


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["off", "'off'", "false"])
def test_fetching_can_be_turned_off(
    tmp_path: Path, manager_url: str, there: Elsewhere, url: str, word: str
) -> None:
    extra = f"images: {{fetch: {word}, fetch_allow: [127.0.0.0/8]}}\n"
    with gateway(tmp_path, manager_url, extra, Names()) as http:
        error = problem(http.post(CHAT, json=chat(url)))
    assert (error["param"], error["code"]) == (PARAM, "unsupported_parameter")
    assert "images.fetch is off" in error["message"]
    assert there.connections == 0


@pytest.mark.parametrize(
    ("extra", "status"),
    [("", 400), ("fetch: public", 400), ("fetch: any", 200), ("fetch_allow: [127.0.0.0/8]", 200),
     ("fetch_allow: [192.168.0.0/16]", 400)],
)  # fmt: skip
def test_private_addresses_are_fetched_from_only_if_allowed(
    tmp_path: Path, manager_url: str, url: str, extra: str, status: int
) -> None:
    with gateway(tmp_path, manager_url, f"images: {{{extra}}}\n", Names()) as http:
        assert http.post(CHAT, json=chat(url)).status_code == status


def test_the_number_of_images_is_bounded(
    tmp_path: Path, manager: StandIn, manager_url: str, there: Elsewhere, url: str
) -> None:
    with gateway(tmp_path, manager_url, ALLOWED.replace("{", "{max_per_request: 3, "), Names()) as http:
        assert http.post(CHAT, json=chat(url, B64, url)).status_code == 200
        before = there.connections
        error = problem(http.post(CHAT, json=chat(*[url] * 4)))
        assert "more than 3 images (images.max_per_request)" in error["message"]
        assert error["param"] == "messages"
        edit = {"prompt": "p", "model": "klein", "image": [B64] * 3, "mask": B64, "strength": None}
        assert problem(http.post(EDITS, json=edit))["param"] in ("image", "mask")
    assert there.connections == before


@pytest.mark.parametrize(("seconds", "status"), [(0.3, 400), (20, 200)])
def test_the_time_for_an_image_is_as_configured(
    tmp_path: Path, manager_url: str, there: Elsewhere, seconds: float, status: int
) -> None:
    def late(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + STAR[:100])
        time.sleep(0.6)
        connection.sendall(STAR[100:])

    there.pages["/late"] = late
    extra = f"images: {{fetch: any, fetch_timeout_s: {seconds}}}\n"
    with gateway(tmp_path, manager_url, extra, Names()) as http:
        answered = http.post(CHAT, json=chat(there.url("/late")))
    assert answered.status_code == status
    assert status == 200 or "within 0.3 s (images.fetch_timeout_s)" in problem(answered)["message"]


@pytest.mark.parametrize(("max_mb", "status"), [(1, 413), (2, 200)])
def test_the_size_of_an_image_is_as_configured(
    tmp_path: Path, manager_url: str, there: Elsewhere, max_mb: int, status: int
) -> None:
    there.pages["/x"] = answer(STAR + b"\0" * (3 << 19))
    extra = f"images: {{fetch: any, max_mb: {max_mb}}}\n"
    with gateway(tmp_path, manager_url, extra, Names()) as http:
        for text in (there.url("/x"), base64.b64encode(STAR + b"\0" * (3 << 19)).decode()):
            assert http.post(CHAT, json=chat(text)).status_code == status


@pytest.mark.parametrize("in_body", [True, False])
def test_the_size_of_an_image_is_bounded(
    client: httpx.Client, manager: StandIn, there: Elsewhere, in_body: bool
) -> None:
    for size, status in ((1 << 20, 200), ((1 << 20) + 1, 413)):
        image = STAR + b"\0" * (size - len(STAR))
        there.pages["/x"] = answer(image)
        text = base64.b64encode(image).decode() if in_body else there.url("/x")
        answered = client.post(CHAT, json=chat(text))
        assert answered.status_code == status, answered.text
    error = problem(answered, 413)
    assert error["param"] == PARAM
    assert "1 MiB (images.max_mb)" in error["message"]


def test_the_size_of_a_form_s_file_is_bounded(client: httpx.Client) -> None:
    files = [("image", STAR + b"\0" * (1 << 20))]
    error = problem(client.post(EDITS, data={"prompt": "p"}, files=files), 413)
    assert error["param"] == "image"


def test_a_request_with_its_images_stays_within_the_bound_of_a_body(
    tmp_path: Path, manager: StandIn, manager_url: str, there: Elsewhere
) -> None:
    extra = ALLOWED + "gateway: {max_body_mb: 2}\n"
    for name in range(4):
        there.pages[f"/{name}"] = answer(STAR + b"\0" * (900 << 10))
    urls = [there.url(f"/{name}") for name in range(4)]
    with gateway(tmp_path, manager_url, extra, Names()) as http:
        assert http.post(CHAT, json=chat(urls[0])).status_code == 200
        error = problem(http.post(CHAT, json=chat(*urls)), 413)
    assert "2 MiB with its images (gateway.max_body_mb)" in error["message"]
    assert len(manager.received) == 1
