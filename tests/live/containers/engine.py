"""The container engine: any that supports ``docker version``.

Rules: every object has a unique name and is removed afterwards; existing objects are not touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hostctl.local_stack import ROOT
from testkit.needs import lacking
from testkit.stacks import wait_for

IMAGE = "vision-insight-api:test"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
_BUILD_S, _CALL_S = 900.0, 180.0


def docker(
    *args: str,
    stdin: str | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = _CALL_S,
) -> str:
    """The output of ``docker ARGS``; a failure shows all of it."""
    done = subprocess.run(
        ["docker", *args], input=stdin, capture_output=True, text=True, timeout=timeout_s, env=environ
    )
    assert done.returncode == 0, f"docker {' '.join(args)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def need_an_engine() -> None:
    if shutil.which("docker") is None:
        lacking("no docker command; on Debian tests/tools/container_engine.sh installs one")
    for needed in (["version"], ["compose", "version"]):
        done = subprocess.run(["docker", *needed], capture_output=True, text=True, timeout=60)
        if done.returncode:
            lacking(f"docker {' '.join(needed)}: {done.stderr.strip() or 'no engine responds'}")


def build() -> str:
    """The image of this checkout. It is kept for the next run; its predecessor is removed."""
    before = docker("images", "-q", IMAGE)
    docker("build", "-q", "-t", IMAGE, str(ROOT), timeout_s=_BUILD_S)
    if before and before != docker("images", "-q", IMAGE):
        subprocess.run(["docker", "rmi", before], capture_output=True)  # fails if it is in use
    return IMAGE


def added_mb() -> float:
    """The size of the image without its base, in MB."""
    base = f"{IMAGE}-base"
    # The engine may not keep the base of a build as an image.
    (line,) = [
        x for x in (ROOT / "Dockerfile").read_text().splitlines() if x.startswith("ARG BASE_IMAGE=")
    ]
    docker("build", "-q", "-t", base, "-", stdin=f"FROM {line.partition('=')[2]}\n", timeout_s=_BUILD_S)
    try:
        size, of_base = (int(inspect(name)["Size"]) for name in (IMAGE, base))
    finally:
        docker("rmi", base)
    return (size - of_base) / 1e6


@cache
def host_address() -> str:
    """The address on which a server of this host is host.docker.internal to containers."""
    desktop = docker("info", "-f", "{{.OperatingSystem}}") == "Docker Desktop"
    if sys.platform == "darwin" or desktop:
        return "127.0.0.1"
    return docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")


def kill_9(container: str) -> None:
    """Kill it like the OOM killer, without the engine's knowledge, so that the engine restarts it."""
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", container))
    code = f"import os; os.kill({pid}, 9)"
    run = ["run", "--rm", "--pid", "host", "--network", "none", "--user", "0", "--privileged"]
    docker(*run, IMAGE, "python", "-c", code)


@contextmanager
def container(*options: str) -> Iterator[str]:
    """A container of the image, hardened as in the compose file, and removed afterwards."""
    name = f"vision-test-{uuid.uuid4().hex[:8]}"
    docker("run", "-d", "--name", name, *HARDENED, *options, IMAGE)
    try:
        yield name
    finally:
        docker("rm", "-f", name)


class Compose:
    """A compose project with a unique name, and *variables* as its ``.env``."""

    def __init__(self, folder: Path, variables: Mapping[str, object], *files: Path) -> None:
        self.name = f"vision-test-{uuid.uuid4().hex[:8]}"
        self._env_file = folder / f"{self.name}.env"
        self.set(variables)
        self._base = ["compose", "-p", self.name, "--env-file", str(self._env_file)]
        for file in files:
            self._base += ["-f", str(file)]
        # A variable of this process would take precedence over the file.
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
        self._environ = {name: os.environ[name] for name in kept if name in os.environ}

    def set(self, variables: Mapping[str, object]) -> None:
        self._env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    def __call__(self, *args: str) -> str:
        return docker(*self._base, *args, environ=self._environ)

    def __enter__(self) -> Compose:
        return self

    def __exit__(self, *exc: object) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout", "5")
        assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}") == ""

    def container(self, service: str = "gateway") -> str:
        """The id of the one container of *service*."""
        (found,) = self("ps", "-aq", service).splitlines()
        return found

    def health(self, service: str = "gateway") -> str:
        return docker("inspect", "-f", "{{.State.Health.Status}}", self.container(service))

    def wait_until_healthy(self, service: str = "gateway", timeout_s: float = 60) -> None:
        wait_for(lambda: self.health(service) == "healthy", timeout_s)


def inspect(what: str) -> dict[str, Any]:
    (found,) = json.loads(docker("inspect", what))
    assert isinstance(found, dict)
    return found
