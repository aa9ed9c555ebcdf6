"""The unchanged image in the homelab's stack: configured by variables, used by the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hostctl.local_stack import LocalStack
from testkit import plain
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, as_base64
from testkit.servers import free_port
from testkit.stacks import process_of, processes, wait_for
from tests.live.containers.conftest import answers, running_manager
from tests.live.containers.engine import IMAGE, Compose, inspect

pytestmark = [pytest.mark.process, pytest.mark.mlx, pytest.mark.container]

STACK = Path(__file__).parent / "homelab" / "docker-compose.yml"


class Homelab:
    def __init__(self, compose: Compose, url: str) -> None:
        self.compose, self.url = compose, url

    def dashboard(self, *command: str) -> dict[str, Any]:
        shown = json.loads(self.compose("exec", "-T", "dashboard", "python", "/dashboard.py", *command))
        assert isinstance(shown, dict)
        return shown


@pytest.fixture(scope="module")
def manager(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running_manager(tmp_path_factory.mktemp("homelab")) as stack:
        yield stack


@pytest.fixture(scope="module")
def homelab(manager: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homelab]:
    port = free_port()
    given = {
        "GATEWAY_IMAGE": IMAGE,
        "MANAGER_PORT": manager.settings.manager.port,
        "PUBLISHED": f"127.0.0.1:{port}",
        "INTERVAL": "1s",
    }
    with Compose(tmp_path_factory.mktemp("stack"), given, STACK) as compose:
        compose("up", "-d")
        compose.wait_until_healthy("vision-gateway")
        yield Homelab(compose, f"http://127.0.0.1:{port}")


def caption(homelab: Homelab) -> httpx.Response:
    body = {"image": as_base64(RED_CIRCLE)}
    return plain.post(f"{homelab.url}/v1/vision/analyze", json=body, timeout=120)


def test_the_gateway_starts_with_variables_only_once_the_manager_responds(homelab: Homelab) -> None:
    check = inspect(homelab.compose.container("vision-manager-check"))["State"]
    assert (check["Status"], check["ExitCode"]) == ("exited", 0)
    gateway = inspect(homelab.compose.container("vision-gateway"))
    assert gateway["Mounts"] == []
    assert check["FinishedAt"] <= gateway["State"]["StartedAt"]
    assert answers(f"{homelab.url}/healthz").json()["status"] == "ok"  # type: ignore[union-attr]


def test_it_captions_an_image(homelab: Homelab) -> None:
    answer = caption(homelab)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"] == RED_CIRCLE_CAPTION


def test_the_dashboard_starts_shows_and_stops_a_worker(homelab: Homelab, manager: LocalStack) -> None:
    assert homelab.dashboard("stop-all")["success"]
    idle = homelab.dashboard("poll")
    assert idle["gateway"] == "healthy"
    assert idle["running"] == {"vlm-fast": False, "vlm-best": False, "image-gen": False}

    started = homelab.dashboard("start", "vlm-best")
    assert started["success"], started
    seen = homelab.dashboard("poll")
    assert seen["running"] == {"vlm-fast": False, "vlm-best": True, "image-gen": False}
    assert seen["workers"]["vlm-best"]["port"] == manager.settings.models["vlm-best"].port
    assert seen["workers"]["vlm-best"]["memory"] != "0.0 GB"
    assert "models" in seen["raw"]

    assert homelab.dashboard("stop", "vlm-best")["success"]
    assert not homelab.dashboard("poll")["running"]["vlm-best"]
    assert [p.pid for p in processes(manager)] == [process_of(manager, "manager").pid]


def test_its_evict_button_works_with_and_without_a_loaded_model(homelab: Homelab) -> None:
    assert homelab.dashboard("start", "vlm-best")["success"]
    assert homelab.dashboard("evict", "vlm-best")["success"]
    assert not homelab.dashboard("poll")["running"]["vlm-best"]
    assert homelab.dashboard("evict", "vlm-best")["success"]


def test_a_failed_start_is_an_object_with_the_reason(homelab: Homelab) -> None:
    failed = homelab.dashboard("start", "no-such-model")
    assert not failed["success"]
    assert "no-such-model" in json.dumps(failed["data"])


def test_the_dashboard_shows_a_healthy_gateway_while_the_manager_is_down(
    homelab: Homelab, manager: LocalStack
) -> None:
    process_of(manager, "manager").kill()
    wait_for(lambda: answers(f"{homelab.url}/healthz").json()["status"] == "degraded")  # type: ignore[union-attr]
    assert homelab.compose.health("vision-gateway") == "healthy"
    manager.start("manager")
    wait_for(lambda: answers(f"{homelab.url}/healthz").json()["status"] == "ok")  # type: ignore[union-attr]
    assert homelab.dashboard("poll")["gateway"] == "healthy"


def test_without_a_manager_the_stack_does_not_start_the_gateway(image: str, tmp_path: Path) -> None:
    given = {"GATEWAY_IMAGE": IMAGE, "MANAGER_PORT": free_port(), "PUBLISHED": "127.0.0.1:0"}
    with Compose(tmp_path, given, STACK) as compose:
        with pytest.raises(
            AssertionError, match=r"vision-manager-check.* didn't complete successfully"
        ):
            compose("up", "-d")
        assert inspect(compose.container("vision-gateway"))["State"]["Status"] == "created"
