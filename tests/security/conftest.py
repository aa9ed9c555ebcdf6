"""Gateways over real sockets in this process, for attacks; no worker is started.

``tiers`` is a gateway in front of a manager. ``client`` belongs to a gateway that may fetch images from
public addresses and 127.0.0.1, where a server listens (``there``); its resolver is ``names``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.settings import Settings
from contracts.settings.file import load
from gateway.app import create_app
from manager.app import ManagerApp
from testkit import plain
from testkit.servers import free_port, served
from tests.gateway.conftest import CONFIG, make_settings
from tests.gateway.stand_in import manager as manager
from tests.gateway.stand_in import manager_url as manager_url
from tests.security.elsewhere import Elsewhere, elsewhere

ALLOWED = "images: {fetch_allow: [127.0.0.1], fetch_timeout_s: 2, max_mb: 1}\n"


@dataclass
class Names:
    """A resolver: each lookup of a name returns its next answer, and the last one from then on."""

    known: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.known.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers[0] if len(answers) == 1 else answers.pop(0)


def chat(url: str, *more: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": u}} for u in (url, *more)]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}]}


PARAM = "messages[0].content[1].image_url.url"


def problem(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.fixture
def there() -> Iterator[Elsewhere]:
    with elsewhere() as server:
        yield server


@contextmanager
def gateway(
    folder: Path, manager_url: str, extra: str, names: Names, **how: Any
) -> Iterator[httpx.Client]:
    settings = make_settings(folder, manager_url, extra)
    app = create_app(settings, resolve=names.resolve, **how)
    with served(app) as url, plain.Client(base_url=url, timeout=20) as client:
        yield client


_NAMES = Names()


@pytest.fixture(autouse=True)
def names() -> Names:
    """The names that ``client`` and ``public`` can resolve: none until a test adds one."""
    _NAMES.known.clear()
    _NAMES.asked.clear()
    return _NAMES


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    """May fetch from public addresses and 127.0.0.1: 1 MiB per image, within two seconds."""
    folder = tmp_path_factory.mktemp("allowed")
    with gateway(folder, manager_url, ALLOWED, _NAMES) as http:
        yield http


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    """Has the default settings."""
    with gateway(tmp_path_factory.mktemp("public"), manager_url, "", _NAMES) as http:
        yield http


# --- both tiers -----------------------------------------------------------------------------------

TIERS = ("gateway", "manager")


class Tiers:
    """The URLs of both tiers."""

    def __init__(self, gateway: str, manager: str) -> None:
        self.gateway = gateway
        self.manager = manager

    def url(self, tier: str) -> str:
        return {"gateway": self.gateway, "manager": self.manager}[tier]


def settings_with(folder: Path, extra: str = "", environ: dict[str, str] | None = None) -> Settings:
    folder.mkdir(exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(CONFIG + extra)
    return load(file, environ or {})


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiers]:
    port = free_port()
    extra = (
        "gateway:\n"
        "  cors_origins: ['http://page.example.org']\n"
        "  allowed_hosts: [vision.example.org, '*.home.arpa']\n"
        "manager:\n"
        "  allowed_hosts: [mac.example.org]\n"
    )
    settings = settings_with(
        tmp_path_factory.mktemp("tiers"), extra, {"WORKER_MANAGER_PORT": str(port)}
    )
    with served(ManagerApp(settings), port) as manager, served(create_app(settings)) as gateway:
        yield Tiers(gateway, manager)
