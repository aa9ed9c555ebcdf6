"""Checks before an install: the problems that prevent it, each with its fix. Pure.

They run before anything is changed. scripts/setup.py has already found a suitable Python.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from hostctl.machine import GIB, Machine, TakenPort
from hostctl.services import Installation

NEEDED_DISK = 2 * GIB  # .venv and the downloads for it
LEAST_RAM = 7 * GIB  # a machine sold with 8 GB reports slightly less
OLDEST_MACOS = 14  # as in scripts/setup.py


@dataclass(frozen=True)
class Blocker:
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}\n    {self.cure}"


def problems(machine: Machine, place: Installation, *, native: bool) -> list[Blocker]:
    found = []
    if place.unusable:
        found.append(
            Blocker(
                f"the folder's path contains {' '.join(map(repr, place.unusable))}: {place.root}",
                "move the folder: service files and Docker do not support such a path",
            )
        )
    found += _of_the_system(machine, place)
    if not native:
        found += [*_of_docker(machine), *_of_the_mount(machine)]
    if not machine.has_venv and machine.disk_free < NEEDED_DISK:
        found.append(
            Blocker(
                f"{machine.disk_free / GIB:.1f} GB are free in {place.root}; the packages need "
                f"{NEEDED_DISK / GIB:.0f} GB",
                "free space; models need more (5-24 GB each, in the folder HF_HOME in .env)",
            )
        )
    return found + [_of_port(t) for t in machine.taken if not t.ours and not _will_be_free(t, machine)]


def _of_the_system(machine: Machine, place: Installation) -> list[Blocker]:
    found = []
    if machine.system not in ("Darwin", "Linux"):
        found.append(Blocker(f"{machine.system} has neither launchd nor systemd", "use macOS or Linux"))
    if machine.system == "Darwin":
        found += _of_the_mac(machine, place)
    if machine.ram_bytes < LEAST_RAM and "VISION_CONFIG" not in machine.variables:
        found.append(
            Blocker(
                f"{machine.ram_bytes / GIB:.1f} GB of memory is too little for the configured models",
                "write a settings file with smaller models; in .env: VISION_CONFIG=./mine.yaml",
            )
        )
    if not machine.session:
        found.append(
            Blocker(
                "systemd has no session for this user: `systemctl --user` fails",
                "log in as the user who will own the stack (not with sudo or su), or use `make up`",
            )
        )
    return found


def _of_the_mac(machine: Machine, place: Installation) -> list[Blocker]:
    found = []
    if not machine.arm_mac:
        found.append(
            Blocker(
                "this Mac has an Intel processor; MLX needs Apple Silicon",
                "use a Mac with an M1 or newer",
            )
        )
    elif machine.arch != "arm64":
        found.append(
            Blocker(
                f"this Python is built for {machine.arch}; MLX needs one for arm64",
                "install Python from python.org, or: brew install python@3.13",
            )
        )
    if machine.macos and machine.macos[0] < OLDEST_MACOS:
        found.append(
            Blocker(
                f"macOS {OLDEST_MACOS} or newer is required; this is "
                f"{'.'.join(map(str, machine.macos))}",
                "update it in System Settings > General > Software Update",
            )
        )
    if machine.protected:
        old, new = shlex.quote(str(place.root)), shlex.quote(machine.move_to)
        found.append(
            Blocker(
                f"{place.root} is in {machine.protected}, which services can't read on macOS",
                f"mv {old} {new} && cd {new} && make install",
            )
        )
    return found


def notes(machine: Machine, place: Installation) -> list[str]:
    """Warnings that do not prevent an install."""
    if machine.system == "Darwin" and place.root.parts[:2] == ("/", "Volumes"):
        return [
            f"{place.root} is on an external disk: macOS may show a dialog before services read it, "
            "and they fail while it is not connected. The home folder avoids both"
        ]
    return []


def _of_docker(machine: Machine) -> list[Blocker]:
    native = "`make install NATIVE=1` installs without Docker"
    start = (
        "open Docker Desktop" if machine.system == "Darwin" else "sudo systemctl enable --now docker"
    )
    if machine.docker == "absent":
        return [Blocker("docker is not installed", f"install Docker; or: {native}")]
    if machine.docker == "stopped":
        return [Blocker("the Docker engine is not running", f"{start} and wait for it; or: {native}")]
    if not machine.compose:
        return [
            Blocker(
                "docker compose is not installed",
                f"install docker-compose-plugin (v2.20 or newer); or: {native}",
            )
        ]
    return []


def _of_the_mount(machine: Machine) -> list[Blocker]:
    """The container runs as another user, who must be able to read the settings file."""
    config = machine.config_to_install
    if config not in machine.private:
        return []
    return [
        Blocker(
            f"{config} is readable by its owner only; the gateway's container runs as another user",
            f"chmod 644 {shlex.quote(config)} (put keys into .env)",
        )
    ]


def _will_be_free(taken: TakenPort, machine: Machine) -> bool:
    """An older version of our service is stopped before ours starts, which frees its ports."""
    return bool(machine.older) and taken.needed_by != "gateway"


def _of_port(taken: TakenPort) -> Blocker:
    where = (
        f"or set {taken.needed_by.upper()}_PORT in .env"
        if taken.needed_by in ("gateway", "manager")
        else f"or change models.{taken.needed_by}.port"
    )
    by = taken.holder or f"another program (lsof -i :{taken.port} shows it)"
    return Blocker(
        f"port {taken.port} of {taken.needed_by} is in use by {by}",
        f"stop it (Ctrl-C stops a stack started by `make up`), {where}",
    )
