"""The gateway's image: what is in it, as whom it runs, and what it wants of its surroundings."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from testkit.servers import free_port
from testkit.stacks import wait_for
from tests.live.containers.conftest import answers
from tests.live.containers.engine import HARDENED, IMAGE, added_mb, container, docker, inspect

pytestmark = [pytest.mark.process, pytest.mark.container]

LARGEST_MB = 80
# The engine's first look at its health would be after five seconds, and the next after thirty.
LOOKED_AT_SOON = ("--health-interval", "1s", "--health-start-period", "1ms")
HEALTHZ = "http://localhost:8000/healthz"  # as the homelab's stack asks for it


@pytest.fixture(scope="module")
def bare(image: str) -> Iterator[str]:
    """A container of the image without config, variables and manager."""
    with container(*LOOKED_AT_SOON) as name:
        wait_for(lambda: healthz(name), 60)
        yield name


def healthz(name: str) -> str | None:
    done = subprocess.run(
        ["docker", "exec", name, "curl", "-fsS", HEALTHZ], capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else None


def printed(command: str, *options: str) -> str:
    """What a shell *command* prints in a new container."""
    run = ["run", "--rm", "--network", "none", *HARDENED, *options]
    return docker(*run, IMAGE, "sh", "-c", command)


def test_it_adds_no_more_to_its_base_than_it_may(image: str) -> None:
    added = added_mb()
    assert 0 < added <= LARGEST_MB, f"{added:.1f} MB"


def test_it_runs_on_what_was_baked_and_says_that_its_manager_is_away(bare: str) -> None:
    told = json.loads(healthz(bare) or "")
    assert (told["status"], told["manager"]) == ("degraded", "unreachable")
    models = json.loads(docker("exec", bare, "curl", "-fsS", "http://127.0.0.1:8000/v1/models"))
    assert {"vlm-fast", "vlm-best", "image-gen"} <= {model["id"] for model in models["data"]}


def test_its_own_health_check_passes(bare: str) -> None:
    wait_for(lambda: inspect(bare)["State"]["Health"]["Status"] == "healthy", 40)


def test_it_runs_as_nobody_in_particular_and_can_write_nowhere(bare: str) -> None:
    assert docker("exec", bare, "id", "-u") == "10001"
    assert docker("exec", bare, "id", "-g") == "10001"
    refused = docker("exec", bare, "sh", "-c", "touch /app/x /opt/venv/x /x 2>&1 || true")
    assert refused.count("Read-only file system") == 3
    writable = printed("find /app /opt/venv -writable; touch /app/x 2>&1 || true", "--read-only=false")
    assert "Permission denied" in writable
    assert len(writable.splitlines()) == 1, writable


def test_it_ends_at_once_when_it_is_told_to(image: str) -> None:
    with container() as name:
        wait_for(lambda: healthz(name), 60)
        began = time.monotonic()
        docker("stop", "--time", "30", name)
        assert time.monotonic() - began < 10
        assert inspect(name)["State"]["ExitCode"] == 0


def test_it_listens_where_gateway_port_says_whatever_the_config_says(image: str) -> None:
    port = free_port()
    where = ("-e", "GATEWAY_PORT=9123", "-p", f"127.0.0.1:{port}:9123")
    with container(*LOOKED_AT_SOON, *where) as name:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 60)
        wait_for(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", 40)
        assert healthz(name) is None


@pytest.mark.parametrize("value", ["/app", ""], ids=["as the homelab's stack sets it", "not set"])
def test_pythonpath_makes_no_difference(image: str, value: str) -> None:
    code = "import gateway.app, sys; print(gateway.app.__file__, sys.executable)"
    told = printed(f'python -c "{code}"', "-e", f"PYTHONPATH={value}")
    assert told == "/app/gateway/app.py /opt/venv/bin/python"


def test_it_holds_the_gateway_and_nothing_of_the_other_tiers(image: str) -> None:
    assert printed("ls /app").split() == ["config.yaml", "contracts", "gateway", "web"]
    installed = printed("ls /opt/venv/lib/python3.*/site-packages").split()
    unwanted = ("pip", "mlx", "mflux", "numpy", "torch", "PIL", "psutil", "transformers", "pytest")
    assert [
        name for name in installed if name.lower().startswith(tuple(map(str.lower, unwanted)))
    ] == []
    assert "fastapi" in installed


def test_a_start_compiles_nothing(image: str) -> None:
    """Of the standard library neither: nothing can be written, so it would be compiled each time."""
    told = printed('python -v -c "import gateway.__main__" 2>&1').splitlines()
    read = [line for line in told if line.startswith("# code object from ")]
    assert len(read) > 300
    assert [line for line in read if ".pyc" not in line] == []


def test_it_says_what_it_is(image: str) -> None:
    labels = inspect(image)["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    for name in ("title", "description", "source", "licenses", "version", "base.name"):
        assert labels[prefix + name], name


def test_a_config_that_cannot_be_read_is_told_in_a_line(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", *HARDENED, "-e", "VISION_CONFIG=/nowhere.yaml", IMAGE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "/nowhere.yaml: cannot be read: No such file or directory"


def test_it_answers_soon_after_it_was_started(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The time is told and not judged: how quick a start is depends on what else the machine does."""
    port = free_port()
    began = time.monotonic()
    with container("-p", f"127.0.0.1:{port}:8000"):
        tasks = wait_for(lambda: answers(f"http://127.0.0.1:{port}/v1/vision/tasks"), 60)
        took = time.monotonic() - began
    assert "caption" in tasks.text
    with capsys.disabled():
        sys.stdout.write(f"\nfirst answer of the gateway's container after {took:.2f} s\n")
