"""A gateway in front of a manager, over real sockets in this process; no worker is ever started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.settings import Settings
from contracts.settings_file import load
from gateway.app import create_app
from manager.app import ManagerApp
from tests.gateway.conftest import CONFIG
from tests.servers import free_port, served

TIERS = ("gateway", "manager")


class Tiers:
    """The URLs of both."""

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
