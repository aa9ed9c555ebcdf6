"""The page's files: served without a key, under a strict policy, and no other files."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.routes.page import FOLDER
from testkit import plain
from testkit.servers import free_port, served
from tests.gateway.conftest import make_settings


def test_the_page_needs_no_key(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, f"http://127.0.0.1:{free_port()}", "gateway: {api_key: k}\n")
    with served(create_app(settings)) as url:
        assert plain.get(f"{url}/").headers["content-type"].startswith("text/html")
        assert plain.get(f"{url}/page/app.js").headers["content-type"].startswith("text/javascript")
        assert httpx.head(f"{url}/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/style.css"])
def test_the_policy_allows_this_gateway_and_nothing_inline(client: httpx.Client, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_every_file_of_the_page_is_served(client: httpx.Client) -> None:
    for path in FOLDER.iterdir():
        assert client.get(f"/page/{path.name}").content == path.read_bytes(), path.name


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "../page.py"])
def test_no_other_file_is_served(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404
