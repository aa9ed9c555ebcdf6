"""docker-compose.dev.yml: a change of the source is served without a build."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from testkit.servers import free_port
from testkit.stacks import wait_for
from tests.live.containers.conftest import answers
from tests.live.containers.engine import IMAGE, Compose

pytestmark = [pytest.mark.process, pytest.mark.container]

FILES = ("docker-compose.yml", "docker-compose.dev.yml")


def test_a_saved_change_is_served(image: str, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    for name in ("contracts", "web", "gateway", "hostctl"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, "config.yaml"):
        shutil.copy(ROOT / name, checkout)
    tmp_path.chmod(0o755)
    port = free_port()
    url = f"http://127.0.0.1:{port}/openapi.json"
    given = {"GATEWAY_PORT": port, "GATEWAY_HOST": "127.0.0.1", "DEV_IMAGE": IMAGE}
    with Compose(tmp_path, given, *(checkout / name for name in FILES)) as compose:
        compose("up", "-d", "--no-build")
        assert "Vision Insight API" in wait_for(lambda: answers(url), 60).text
        source = checkout / "gateway" / "openapi" / "document.py"
        source.write_text(source.read_text().replace('"Vision Insight API"', '"Changed"'))
        wait_for(lambda: (a := answers(url)) and "Changed" in a.text, 60)
        source.write_text(source.read_text().replace('"Changed"', '"Broken"') + "\n(")
        wait_for(lambda: answers(url) is None, 60)
        source.write_text(source.read_text().removesuffix("("))
        wait_for(lambda: (a := answers(url)) and "Broken" in a.text, 60)
