"""Request log lines: the format, and the content that is never logged."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hostctl.local_stack import ROOT
from testkit import plain
from testkit.servers import free_port
from tests.gateway.conftest import CONFIG
from tests.manager.conftest import eventually

PROMPT = "a secret\nprompt"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"pixels" * 20).decode()
CHAT = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": PROMPT},
                {"type": "image_url", "image_url": {"url": PNG}},
            ],
        }
    ]
}
REQUESTS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/images/generations", {"prompt": PROMPT}),
    ("/v1/images/edits", {"prompt": PROMPT, "image": PNG}),
    ("/v1/vision/analyze", {"image": PNG, "task": "custom", "prompt": PROMPT}),
]


def logged(tmp_path: Path, manager_url: str, settings: str) -> list[str]:
    """The log of a gateway process that received each of ``REQUESTS``."""
    port = free_port()
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + settings)
    command = [sys.executable, "-m", "gateway", "--config", str(config)]
    environ = {"GATEWAY_PORT": str(port), "WORKER_MANAGER_PORT": manager_url.rpartition(":")[2]}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        with plain.Client(base_url=f"http://127.0.0.1:{port}") as client:
            eventually(lambda: is_up(client), timeout_s=20)
            for path, body in REQUESTS:
                assert client.post(path, json=body).status_code == 200
        process.terminate()
        _, errors = process.communicate(timeout=20)
    return errors.splitlines()


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def for_machines(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> list[str]:
    """In JSON; prompts as by default."""
    return logged(tmp_path_factory.mktemp("json"), manager_url, "logs: {format: json}\n")


@pytest.fixture(scope="module")
def for_people(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> list[str]:
    """In the default format, with prompts."""
    return logged(tmp_path_factory.mktemp("prompts"), manager_url, "logs: {prompts: true}\n")


@pytest.mark.process
def test_the_log_format_follows_the_settings(for_people: list[str], for_machines: list[str]) -> None:
    records = [json.loads(line) for line in for_machines]
    paths = [record["path"] for record in records if record["logger"] == "gateway.access"]
    assert paths == [path for path, _ in REQUESTS]
    assert any(
        re.search(r" INFO gateway.access: POST /v1/images/edits \[req_", line) for line in for_people
    )


@pytest.mark.process
def test_prompts_are_logged_only_if_the_settings_allow_it(
    for_people: list[str], for_machines: list[str]
) -> None:
    silent = "\n".join(for_machines)
    assert "secret" not in silent
    assert PNG[:40] not in silent
    assert sum(r"prompt='a secret\nprompt'" in line for line in for_people) == len(REQUESTS)
    assert PNG[:40] not in "\n".join(for_people)
