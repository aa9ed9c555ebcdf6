"""What keeps the stack from being installed here, each with its cure. Pure.

Asked before anything is changed. Python itself is looked for by scripts/setup.py, before this.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from hostctl.machine import GIB, Machine, TakenPort
from hostctl.services import Installation

NEEDED_DISK = 2 * GIB  # .venv and what it is made from
LEAST_RAM = 7 * GIB  # what a machine sold with 8 GB reports, and somewhat less
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
                f"the folder's name has {' '.join(map(repr, place.unusable))} in it: {place.root}",
                "move the folder: service files and Docker can't take such a name",
            )
        )
    found += _of_the_system(machine, place)
    if not native:
        found += [*_of_docker(machine), *_of_the_mount(machine)]
    if not machine.has_venv and machine.disk_free < NEEDED_DISK:
        found.append(
            Blocker(
                f"{machine.disk_free / GIB:.1f} GB are free in {place.root}, and the packages need "
                f"{NEEDED_DISK / GIB:.0f}",
                "make room; models need more (5-24 GB each, HF_HOME in .env says where)",
            )
        )
    return found + [_of_port(t) for t in machine.taken if not t.ours and not _goes(t, machine)]


def _of_the_system(machine: Machine, place: Installation) -> list[Blocker]:
    found = []
    if machine.system not in ("Darwin", "Linux"):
        found.append(Blocker(f"{machine.system} has neither launchd nor systemd", "use macOS or Linux"))
    if machine.system == "Darwin":
        found += _of_the_mac(machine, place)
    if machine.ram_bytes < LEAST_RAM and "VISION_CONFIG" not in machine.variables:
        found.append(
            Blocker(
                f"{machine.ram_bytes / GIB:.1f} GB of memory hold none of the configured models",
                "write a settings file with smaller ones; in .env: VISION_CONFIG=./mine.yaml",
            )
        )
    if not machine.session:
        found.append(
            Blocker(
                "systemd has no session for you: `systemctl --user` does not answer",
                "log in as the user who shall own the stack (not by sudo or su), or use `make up`",
            )
        )
    return found


def _of_the_mac(machine: Machine, place: Installation) -> list[Blocker]:
    found = []
    if not machine.arm_mac:
        found.append(
            Blocker(
                "this Mac has an Intel processor, and MLX needs Apple Silicon",
                "use a Mac with an M1 or newer",
            )
        )
    elif machine.arch != "arm64":
        found.append(
            Blocker(
                f"this Python is built for {machine.arch}, and MLX needs an arm64 one",
                "install Python from python.org, or: brew install python@3.13",
            )
        )
    if machine.macos and machine.macos[0] < OLDEST_MACOS:
        found.append(
            Blocker(
                f"macOS {OLDEST_MACOS} or newer is needed, this is {'.'.join(map(str, machine.macos))}",
                "update it in System Settings > General > Software Update",
            )
        )
    if machine.protected:
        old, new = shlex.quote(str(place.root)), shlex.quote(machine.move_to)
        found.append(
            Blocker(
                f"{place.root} is in {machine.protected}, which macOS lets no service read",
                f"mv {old} {new} && cd {new} && make install",
            )
        )
    return found


def notes(machine: Machine, place: Installation) -> list[str]:
    """What can go wrong later, and is no reason not to install."""
    if machine.system == "Darwin" and place.root.parts[:2] == ("/", "Volumes"):
        return [
            f"{place.root} is on an external disk: macOS may ask at the screen whether the services "
            "may read it, and they fail while it is not connected. The home folder has neither trouble"
        ]
    return []


def _of_docker(machine: Machine) -> list[Blocker]:
    native = "`make install NATIVE=1` does without Docker"
    start = (
        "open Docker Desktop" if machine.system == "Darwin" else "sudo systemctl enable --now docker"
    )
    if machine.docker == "absent":
        return [Blocker("there is no docker command", f"install Docker, or: {native}")]
    if machine.docker == "stopped":
        return [Blocker("the Docker engine does not answer", f"{start} and wait for it; or: {native}")]
    if not machine.compose:
        return [
            Blocker(
                "docker has no compose plugin",
                f"install docker-compose-plugin (v2.20 or newer); or: {native}",
            )
        ]
    return []


def _of_the_mount(machine: Machine) -> list[Blocker]:
    """The container has a user of its own, who must be able to read the settings file."""
    config = machine.config_to_install
    if config not in machine.private:
        return []
    return [
        Blocker(
            f"{config} can be read by its owner alone, and the gateway's container has another user",
            f"chmod 644 {shlex.quote(config)} (keys belong into .env)",
        )
    ]


def _goes(taken: TakenPort, machine: Machine) -> bool:
    """An older service of the same purpose is ended before ours starts, and its ports are free then."""
    return bool(machine.older) and taken.wanted_by != "gateway"


def _of_port(taken: TakenPort) -> Blocker:
    where = (
        f"or set {taken.wanted_by.upper()}_PORT in .env"
        if taken.wanted_by in ("gateway", "manager")
        else f"or give models.{taken.wanted_by}.port another number"
    )
    by = taken.holder or f"somebody (lsof -i :{taken.port} tells who)"
    return Blocker(
        f"port {taken.port}, which {taken.wanted_by} needs, is taken by {by}",
        f"stop that (a stack that `make up` runs ends with Ctrl-C), {where}",
    )
