"""The gateway's image: its content, its user, and its requirements."""

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
# The engine's first health check would be after five seconds, the next after thirty.
CHECKED_SOON = ("--health-interval", "1s", "--health-start-period", "1ms")
HEALTHZ = "http://localhost:8000/healthz"  # the URL in the homelab's stack


@pytest.fixture(scope="module")
def bare(image: str) -> Iterator[str]:
    """A container of the image without config, variables or manager."""
    with container(*CHECKED_SOON) as name:
        wait_for(lambda: healthz(name), 60)
        yield name


def healthz(name: str) -> str | None:
    done = subprocess.run(
        ["docker", "exec", name, "curl", "-fsS", HEALTHZ], capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else None


def printed(command: str, *options: str) -> str:
    """The output of a shell *command* in a new container."""
    run = ["run", "--rm", "--network", "none", *HARDENED, *options]
    return docker(*run, IMAGE, "sh", "-c", command)


def test_it_adds_at_most_the_allowed_size_to_its_base(image: str) -> None:
    added = added_mb()
    assert 0 < added <= LARGEST_MB, f"{added:.1f} MB"


def test_it_runs_with_its_default_config_and_reports_the_missing_manager(bare: str) -> None:
    health = json.loads(healthz(bare) or "")
    assert (health["status"], health["manager"]) == ("degraded", "unreachable")
    models = json.loads(docker("exec", bare, "curl", "-fsS", "http://127.0.0.1:8000/v1/models"))
    assert {"vlm-fast", "vlm-best", "image-gen"} <= {model["id"] for model in models["data"]}


def test_its_own_health_check_passes(bare: str) -> None:
    wait_for(lambda: inspect(bare)["State"]["Health"]["Status"] == "healthy", 40)


def test_it_runs_as_an_unprivileged_user_and_cannot_write(bare: str) -> None:
    assert docker("exec", bare, "id", "-u") == "10001"
    assert docker("exec", bare, "id", "-g") == "10001"
    refused = docker("exec", bare, "sh", "-c", "touch /app/x /opt/venv/x /x 2>&1 || true")
    assert refused.count("Read-only file system") == 3
    writable = printed("find /app /opt/venv -writable; touch /app/x 2>&1 || true", "--read-only=false")
    assert "Permission denied" in writable
    assert len(writable.splitlines()) == 1, writable


def test_it_stops_immediately_on_sigterm(image: str) -> None:
    with container() as name:
        wait_for(lambda: healthz(name), 60)
        began = time.monotonic()
        docker("stop", "--time", "30", name)
        assert time.monotonic() - began < 10
        assert inspect(name)["State"]["ExitCode"] == 0


def test_gateway_port_overrides_the_config(image: str) -> None:
    port = free_port()
    where = ("-e", "GATEWAY_PORT=9123", "-p", f"127.0.0.1:{port}:9123")
    with container(*CHECKED_SOON, *where) as name:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 60)
        wait_for(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", 40)
        assert healthz(name) is None


def test_pythonpath_makes_no_difference(image: str) -> None:
    code = "import gateway.app, sys; print(gateway.app.__file__, sys.executable)"
    for value in ("/app", ""):  # as the homelab's stack sets it, and not set
        output = printed(f'python -c "{code}"', "-e", f"PYTHONPATH={value}")
        assert output == "/app/gateway/app.py /opt/venv/bin/python"


def test_it_contains_the_gateway_and_nothing_of_the_other_tiers(image: str) -> None:
    assert printed("ls /app").split() == ["config.yaml", "contracts", "gateway", "web"]
    installed = printed("ls /opt/venv/lib/python3.*/site-packages").split()
    unwanted = ("pip", "mlx", "mflux", "numpy", "torch", "PIL", "psutil", "transformers", "pytest")
    assert [
        name for name in installed if name.lower().startswith(tuple(map(str.lower, unwanted)))
    ] == []
    assert "fastapi" in installed


def test_a_start_compiles_nothing(image: str) -> None:
    """Nor of the standard library: nothing can be written, so it would be compiled at each start."""
    output = printed('python -v -c "import gateway.__main__" 2>&1').splitlines()
    read = [line for line in output if line.startswith("# code object from ")]
    assert len(read) > 300
    assert [line for line in read if ".pyc" not in line] == []


def test_it_has_descriptive_labels(image: str) -> None:
    labels = inspect(image)["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    for name in ("title", "description", "source", "licenses", "version", "base.name"):
        assert labels[prefix + name], name


def test_an_unreadable_config_is_reported_in_one_line(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", *HARDENED, "-e", "VISION_CONFIG=/nowhere.yaml", IMAGE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "/nowhere.yaml: cannot be read: No such file or directory"


def test_it_responds_soon_after_its_start(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The time is printed, but not checked: it depends on the load of the machine."""
    port = free_port()
    began = time.monotonic()
    with container("-p", f"127.0.0.1:{port}:8000"):
        tasks = wait_for(lambda: answers(f"http://127.0.0.1:{port}/v1/vision/tasks"), 60)
        took = time.monotonic() - began
    assert "caption" in tasks.text
    with capsys.disabled():
        sys.stdout.write(f"\nfirst response of the gateway's container after {took:.2f} s\n")
