"""Installation with the gateway in Docker: a real systemd for the manager, a real container engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from testkit.needs import lacking
from testkit.servers import free_port
from testkit.stacks import wait_for
from tests.hostctl.session import require_systemd
from tests.live.test_systemd import Life

pytestmark = pytest.mark.process

PROJECT = f"vision-insight-install-{os.getpid()}"


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    require_systemd()
    try:
        there = docker("version", "-f", "{{.Server.Version}}") and docker("compose", "version")
    except OSError:
        there = ""
    if not there:
        lacking("a container engine with compose")
    life = Life(tmp_path_factory.mktemp("docker"))
    life.tree.use_docker(PROJECT)
    with life.session:
        try:
            yield life
        finally:
            life.make("uninstall PURGE=1")
    assert life.tree.processes() == []
    assert docker("ps", "-aq", "-f", f"label=com.docker.compose.project={PROJECT}") == ""
    assert docker("images", "-q", f"{PROJECT}:test") == ""


def test_the_container_reaches_the_manager_on_its_host(life: Life) -> None:
    text = life.must("install NATIVE=0")
    assert "The stack is up" in text
    assert life.up("gateway")
    assert docker("ps", "-q", "-f", f"label=com.docker.compose.project={PROJECT}") != ""
    assert "Docker" in life.must("status")
    assert "0 broken" in life.must("doctor")


def test_stop_and_start_act_on_the_container_alone(life: Life) -> None:
    before = life.process("manager").pid
    life.must("stop")
    assert not life.up("gateway")
    assert "nobody answers on its port" in life.make("doctor")[1]
    life.must("start")
    assert life.up("gateway")
    assert life.process("manager").pid == before


def test_a_container_without_its_manager_is_degraded_and_recovers(life: Life) -> None:
    life.session.run("systemctl --user stop vision-insight-manager")
    assert life.get("gateway", "/healthz").json()["status"] == "degraded"
    status, text = life.make("status")
    assert status != 0
    assert "degraded" in text
    assert "not loaded" in life.make("doctor")[1]
    life.must("restart")
    assert life.up("gateway")


def test_env_takes_effect_in_the_container_too(life: Life) -> None:
    life.tree.ports |= {"gateway": free_port(), "manager": free_port()}
    life.tree.set(
        GATEWAY_PORT=str(life.tree.ports["gateway"]),
        MANAGER_PORT=str(life.tree.ports["manager"]),
        GATEWAY_API_KEY="a-long-random-key",
    )
    assert "GATEWAY_API_KEY" in life.make("doctor")[1] or not life.up("gateway")
    life.must("restart")
    wait_for(lambda: life.up("gateway"))
    assert life.get("gateway", "/v1/models").status_code == 401
    key = {"authorization": "Bearer a-long-random-key"}
    assert life.get("gateway", "/v1/models", headers=key).status_code == 200
    assert set(life.get("gateway", "/v1/system/status", headers=key).json()["models"])


def test_a_native_gateway_replaces_the_container(life: Life) -> None:
    life.must("install NATIVE=1")
    assert life.up("gateway")
    assert docker("ps", "-aq", "-f", f"label=com.docker.compose.project={PROJECT}") == ""
    life.must("install NATIVE=0")
    assert life.up("gateway")
    assert life.show("vision-insight-gateway", "LoadState") == {"LoadState": "not-found"}
