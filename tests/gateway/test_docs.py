"""``/docs`` and the description behind it: served, and offline."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.app import create_app
from gateway.openapi.document import document
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings


def test_the_description_is_served_as_json_and_yaml(client: httpx.Client) -> None:
    made = client.get("/openapi.json").json()
    assert made == yaml.safe_load(client.get("/openapi.yaml").text)
    assert made["paths"] == document("/", key=False)["paths"]
    assert made["servers"] == [{"url": "/"}]


def test_the_page_loads_only_files_of_this_gateway(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="(.*?)"', page.text)
    assert len(loaded) == 4
    for name in loaded:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.content
    assert "//" not in page.text


def test_the_page_may_run_only_its_own_scripts(client: httpx.Client) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2Fmain.py", "%2e%2e"])
def test_no_other_file_of_the_package_is_served(client: httpx.Client, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


def test_the_page_needs_no_key_and_says_that_calls_do(tmp_path: Path, manager_url: str) -> None:
    extra = "gateway: {api_key: sesame, public_url: 'https://vision.example.org/api'}\n"
    with served(create_app(make_settings(tmp_path, manager_url, extra))) as url:
        assert plain.get(f"{url}/docs").status_code == 200
        made = plain.get(f"{url}/openapi.json").json()
    assert made["servers"] == [{"url": "https://vision.example.org/api"}]
    security = made["paths"]["/v1/models"]["get"]["security"]
    assert security == [{"bearer": []}, {"x-api-key": []}]


def test_a_path_with_an_extra_slash_is_another_path(client: httpx.Client) -> None:
    assert client.get("/healthz/").status_code == 404
