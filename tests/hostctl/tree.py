"""A copy of the project in its own folder, with its own ``.venv``."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from contracts.env_file import with_value
from hostctl.local_stack import ROOT
from scripts import setup
from testkit.servers import free_port

FOLDERS = (
    "contracts",
    "web",
    "gateway",
    "manager",
    "workers",
    "hostctl",
    "scripts",
    "packaging",
    "launchd",
)
FILES = (
    "Makefile",
    "Dockerfile",
    "docker-compose.yml",
    "config.yaml",
    "config.16gb.yaml",
    ".env.example",
)


class Tree:
    """A fresh clone in *folder*, with installed packages and the demo's models."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        folder.mkdir(parents=True)
        skip = shutil.ignore_patterns("__pycache__")
        for name in (*FOLDERS, "requirements"):
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        self._make_venv()
        self.ports = self._write_config()

    def _make_venv(self) -> None:
        """Its own, so that the .venv of the tests never changes."""
        venv = self.root / ".venv"
        (venv / "bin").mkdir(parents=True)
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
        (venv / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
        # Shows setup.py that everything is installed.
        (venv / "installed.txt").write_text(f"dev {setup.lock_hash('dev')}\n")

    def use_docker(self, project: str) -> None:
        """Use containers and images named *project*, and a manager that they can reach."""
        compose = self.root / "docker-compose.yml"
        lines = [line for line in compose.read_text().splitlines() if "container_name:" not in line]
        text = re.sub(r"(?m)^(\s+image:).*$", rf"\1 {project}:test", "\n".join(lines))
        # `up --wait` waits for the health check, which would first run after five seconds.
        for slow, quick in (
            ("interval: 10s", "1s"),
            ("start_period: 10s", "1ms"),
            ("retries: 3", "60"),
        ):
            assert text.count(slow) == 1, slow
            text = text.replace(slow, f"{slow.partition(' ')[0]} {quick}")
        compose.write_text(f"{text}\n")
        config = self.root / "config.yaml"
        text = config.read_text().replace("docker_bridge: false", "docker_bridge: true")
        config.write_text(text.replace("host: 127.0.0.1", "host: 0.0.0.0"))
        shutil.copy(config, self.root / "config.16gb.yaml")
        text = (self.root / ".env.example").read_text() + f"COMPOSE_PROJECT_NAME={project}\n"
        (self.root / ".env").write_text(text)

    def _write_config(self) -> dict[str, int]:
        data: dict[str, Any] = yaml.safe_load((ROOT / "config.demo.yaml").read_text())
        ports = {name: free_port() for name in ("gateway", "manager", *data["models"])}
        data["manager"] = {"port": ports["manager"], "docker_bridge": False, "standby": 0}
        data["gateway"]["port"] = ports["gateway"]
        for alias, model in data["models"].items():
            model["port"] = ports[alias]
            model["path"] = str(ROOT / model["path"])
        text = yaml.safe_dump(data)
        (self.root / "config.yaml").write_text(text)
        (self.root / "config.16gb.yaml").write_text(text)  # a small machine uses this one
        return ports

    def set(self, **variables: str) -> None:
        """Set variables in ``.env``."""
        file = self.root / ".env"
        text = file.read_text()
        for name, value in variables.items():
            text = with_value(text, name, value)
        file.write_text(text)

    def processes(self) -> list[psutil.Process]:
        """The processes that run on its Python."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            argv = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(
                str(self.root) in a for a in argv
            ):
                found.append(process)
        return found
