"""A gateway over real sockets, in front of a stand-in manager."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contracts.settings import Settings
from contracts.settings.file import load
from gateway.app import create_app
from testkit import plain
from testkit.servers import free_port, served
from tests.gateway.stand_in import manager as manager
from tests.gateway.stand_in import manager_url as manager_url

# Runs ``uname`` once and caches it: OpenAI's SDK asks for it in tests that must start no process.
platform.processor()

CONFIG = """\
defaults: {chat: a, analyze: a, generate: b, edit: b}
models:
  a: {kind: vlm, path: org/a, port: 18001, memory_gb: 1, names: [alpha, org/alpha]}
  b:
    kind: image
    family: flux1-schnell
    path: org/b
    port: 18002
    memory_gb: 1
    max_pixels: 65536
    size: 128x128
  kontext: {kind: image, family: flux1-kontext, path: org/k, port: 18003, memory_gb: 1}
  klein: {kind: image, family: flux2-klein-4b, path: org/l, port: 18004, memory_gb: 1}
"""


def make_settings(tmp_path: Path, manager_url: str, extra: str = "") -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG + extra)
    port = manager_url.rpartition(":")[2]
    return load(file, {"WORKER_MANAGER_PORT": port})


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    settings = make_settings(tmp_path_factory.mktemp("gateway"), manager_url)
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
        yield http


@pytest.fixture(scope="session")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a gateway whose manager is away."""
    settings = make_settings(tmp_path_factory.mktemp("lonely"), f"http://127.0.0.1:{free_port()}")
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
        yield http
