"""``response_format: url`` over sockets: the URLs, their content and their expiry."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.settings.file import SettingsError
from gateway.app import create_app
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import StandIn
from tests.gateway.test_image_store import Clock
from tests.gateway.test_routes import B64, PNG, error

DRAW = {"prompt": "p", "response_format": "url"}


@contextmanager
def gateway(
    folder: Path, manager_url: str, extra: str = "", clock: Clock | None = None
) -> Iterator[httpx.Client]:
    settings = make_settings(folder, manager_url, extra)
    app = create_app(settings, clock=clock or Clock())
    with served(app) as url, plain.Client(base_url=url) as http:
        yield http


def status_of_raw(client: httpx.Client, target: str) -> int:
    """The status for exactly this *target*, which httpx would normalize."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return int(connection.recv(4096).split(b" ")[1])


def generated(client: httpx.Client, manager: StandIn, *images: bytes, **fields: Any) -> list[str]:
    """The URLs in the response."""
    manager.mode, manager.images = "images", list(images)
    answer = client.post("/v1/images/generations", json={**DRAW, **fields})
    assert answer.status_code == 200, answer.text
    return [data["url"] for data in answer.json()["data"]]


def test_a_response_has_urls_in_place_of_its_images(client: httpx.Client, manager: StandIn) -> None:
    manager.mode, manager.images = "images", [PNG, PNG[::-1]]
    answer = client.post("/v1/images/generations", json=DRAW)
    body = answer.json()
    assert [set(data) for data in body["data"]] == [{"url", "revised_prompt", "seed"}] * 2
    assert body["usage"]["latency"] == 1.5
    assert answer.headers["x-vision-model-ms"] == "34"
    assert [plain.get(data["url"]).content for data in body["data"]] == manager.images


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_file_has_the_type_of_its_format_and_is_nothing_else(
    client: httpx.Client, manager: StandIn, form: str
) -> None:
    (url,) = generated(client, manager, PNG, output_format=form)
    assert url.endswith(f".{form}")
    answer = plain.get(url)
    assert answer.content == PNG
    assert answer.headers["content-type"] == f"image/{form}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"].startswith("private, immutable, max-age=")
    head = httpx.head(url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(PNG)))
    other = url.rpartition(".")[0] + (".png" if form != "png" else ".webp")
    assert plain.get(other).status_code == 404


def test_an_edit_sent_as_a_form_returns_urls_too(client: httpx.Client, manager: StandIn) -> None:
    manager.mode, manager.images = "images", [PNG]
    form = {"prompt": "p", "response_format": "url"}
    answer = client.post("/v1/images/edits", data=form, files=[("image", PNG)])
    assert plain.get(answer.json()["data"][0]["url"]).content == PNG


def test_an_image_expires(tmp_path: Path, manager: StandIn, manager_url: str) -> None:
    clock = Clock()
    with gateway(tmp_path, manager_url, "gateway: {image_url_ttl_s: 60}\n", clock) as client:
        (url,) = generated(client, manager, PNG)
        clock.now += 59
        assert plain.get(url).headers["cache-control"].endswith("max-age=1")
        clock.now += 2
        answer = plain.get(url)
        assert answer.status_code == 404
        assert error(answer)["code"] == "not_found"


def test_a_full_store_drops_the_oldest_images(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    large = bytes(600_000)
    with gateway(tmp_path, manager_url, "gateway: {image_url_max_mb: 1}\n") as client:
        (first,) = generated(client, manager, large)
        (second,) = generated(client, manager, large)
        assert [plain.get(url).status_code for url in (first, second)] == [404, 200]


@pytest.mark.parametrize("size", [1_100_000, 3_000_000])
def test_images_larger_than_the_store_are_refused(
    tmp_path: Path, manager: StandIn, manager_url: str, size: int
) -> None:
    manager.mode, manager.images = "images", [bytes(size)]
    with gateway(tmp_path, manager_url, "gateway: {image_url_max_mb: 1}\n") as client:
        answer = client.post("/v1/images/generations", json=DRAW)
        assert answer.status_code == 400
        problem = error(answer)
        assert (problem["param"], problem["code"]) == ("response_format", "pictures_too_large")
        manager.images = [PNG]
        assert client.post("/v1/images/generations", json=DRAW).status_code == 200


def test_a_url_has_the_host_of_the_request(client: httpx.Client, manager: StandIn) -> None:
    manager.mode, manager.images = "images", [PNG]

    def reported(host: str) -> str:
        answer = client.post("/v1/images/generations", json=DRAW, headers={"host": host})
        parts = urlsplit(answer.json()["data"][0]["url"])
        return f"{parts.scheme}://{parts.netloc}"

    assert reported("mac.local:8000") == "http://mac.local:8000"
    assert reported("[fd00::1]:8000") == "http://[fd00::1]:8000"
    strange = client.post("/v1/images/generations", json=DRAW, headers={"host": 'a"b/../c'})
    assert strange.status_code == 403, "an invalid host name gets no URL"


def test_the_configured_public_url_takes_precedence(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    extra = "gateway: {public_url: 'https://vision.example.org/ai/'}\n"
    with gateway(tmp_path, manager_url, extra) as client:
        (url,) = generated(client, manager, PNG)
        assert url.startswith("https://vision.example.org/ai/v1/images/files/")
        path = urlsplit(url).path.removeprefix("/ai")
        assert client.get(path).content == PNG


@pytest.mark.parametrize(
    "url", ["vision.example.org", "ftp://x", "http://", "http://a b", "http://a?x"]
)
def test_an_invalid_public_url_prevents_startup(tmp_path: Path, manager_url: str, url: str) -> None:
    with pytest.raises(SettingsError, match=r"gateway\.public_url"):
        make_settings(tmp_path, manager_url, f"gateway: {{public_url: '{url}'}}\n")


def test_an_image_url_needs_no_key_and_opens_nothing_else(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    with gateway(tmp_path, manager_url, "gateway: {api_key: s3cret}\n") as client:
        client.headers["authorization"] = "Bearer s3cret"
        (url,) = generated(client, manager, PNG)
        del client.headers["authorization"]
        assert client.get(urlsplit(url).path).content == PNG
        for path in ("/v1/images/files", "/v1/models"):
            assert client.get(path).status_code == 401, path
        for name in ("guess.png", "../../models", "%2e%2e/%2e%2e/models", "a/../../../models"):
            assert status_of_raw(client, f"/v1/images/files/{name}") == 404, name


def test_the_token_is_never_logged(
    client: httpx.Client, manager: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "gateway")
    (url,) = generated(client, manager, PNG)
    plain.get(url)
    token = url.rpartition("/")[2].partition(".")[0]
    assert not [r for r in caplog.records if r.name.startswith("gateway") and token in r.getMessage()]


def test_base64_images_are_forwarded_byte_for_byte(client: httpx.Client, manager: StandIn) -> None:
    manager.mode, manager.images = "images", [PNG]
    body = client.post("/v1/images/generations", json={"prompt": "p"}).json()
    assert body["data"][0]["b64_json"] == B64


@pytest.mark.parametrize(("mode", "status"), [("fail", 429), ("cut", 503), ("echo", 502)])
def test_an_invalid_response_produces_no_url(
    client: httpx.Client, manager: StandIn, mode: str, status: int
) -> None:
    manager.mode = mode
    answer = client.post("/v1/images/generations", json=DRAW)
    assert answer.status_code == status
    assert "url" not in json.dumps(answer.json())
