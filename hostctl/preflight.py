"""What keeps the stack from being installed here, each with its cure. Pure.

Asked before anything is changed. Python itself is looked for by scripts/setup.py, before this.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from hostctl.machine import GIB, SMALL_CONFIG, Machine, TakenPort
from hostctl.services import Place

NEEDED_DISK = 3 * GIB  # .venv and what it is made from
LEAST_RAM = 7 * GIB  # what a machine sold with 8 GB reports, and somewhat less
# A machine sold with 24 GB reports somewhat less, too.
SMALL_RAM = 23 * GIB


@dataclass(frozen=True)
class Problem:
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}\n    {self.cure}"


def problems(machine: Machine, place: Place, *, native: bool) -> list[Problem]:
    found = []
    if place.unusable:
        found.append(
            Problem(
                f"the folder's name has {' '.join(map(repr, place.unusable))} in it: {place.root}",
                "move the folder: service files and Docker can't take such a name",
            )
        )
    found += _of_the_system(machine)
    if not native:
        found += [*_of_docker(machine), *_of_the_mount(machine)]
    if not machine.has_venv and machine.disk_free < NEEDED_DISK:
        found.append(
            Problem(
                f"{machine.disk_free / GIB:.1f} GB are free in {place.root}, and the packages need "
                f"{NEEDED_DISK / GIB:.0f}",
                "make room; models need more (5-24 GB each, HF_HOME in .env says where)",
            )
        )
    return found + [_of_port(t) for t in machine.taken if not t.ours and not _goes(t, machine)]


def _of_the_system(machine: Machine) -> list[Problem]:
    found = []
    if machine.system not in ("Darwin", "Linux"):
        found.append(Problem(f"{machine.system} has neither launchd nor systemd", "use macOS or Linux"))
    if machine.system == "Darwin" and machine.arch != "arm64":
        found.append(
            Problem(
                f"this Mac or this Python is {machine.arch}, and MLX needs Apple Silicon",
                "on an Apple Silicon Mac, use an arm64 Python: brew install python@3.12",
            )
        )
    if machine.ram_bytes < LEAST_RAM and "VISION_CONFIG" not in machine.variables:
        found.append(
            Problem(
                f"{machine.ram_bytes / GIB:.1f} GB of memory hold none of the configured models",
                "write a settings file with smaller ones; in .env: VISION_CONFIG=./mine.yaml",
            )
        )
    if not machine.session:
        found.append(
            Problem(
                "systemd has no session for you: `systemctl --user` does not answer",
                "log in as the user who shall own the stack (not by sudo or su), or use `make up`",
            )
        )
    return found


def _of_docker(machine: Machine) -> list[Problem]:
    native = "`make install NATIVE=1` does without Docker"
    start = (
        "open Docker Desktop" if machine.system == "Darwin" else "sudo systemctl enable --now docker"
    )
    if machine.docker == "absent":
        return [Problem("there is no docker command", f"install Docker, or: {native}")]
    if machine.docker == "stopped":
        return [Problem("the Docker engine does not answer", f"{start} and wait for it; or: {native}")]
    if not machine.compose:
        return [
            Problem(
                "docker has no compose plugin",
                f"install docker-compose-plugin (v2.20 or newer); or: {native}",
            )
        ]
    return []


def _of_the_mount(machine: Machine) -> list[Problem]:
    """The container has a user of its own, who must be able to read the settings file."""
    is_small = machine.ram_bytes < SMALL_RAM and not machine.variables.get("VISION_CONFIG")
    config = SMALL_CONFIG if is_small else machine.config
    if config not in machine.private:
        return []
    return [
        Problem(
            f"{config} can be read by its owner alone, and the gateway's container has another user",
            f"chmod 644 {shlex.quote(config)} (keys belong into .env)",
        )
    ]


def _goes(taken: TakenPort, machine: Machine) -> bool:
    """An older service of the same purpose is ended before ours starts, and its ports are free then."""
    return bool(machine.older) and taken.wanted_by != "gateway"


def _of_port(taken: TakenPort) -> Problem:
    where = (
        f"or set {taken.wanted_by.upper()}_PORT in .env"
        if taken.wanted_by in ("gateway", "manager")
        else f"or give models.{taken.wanted_by}.port another number"
    )
    by = taken.holder or f"somebody (lsof -i :{taken.port} tells who)"
    return Problem(
        f"port {taken.port}, which {taken.wanted_by} needs, is taken by {by}",
        f"stop that (a stack that `make up` runs ends with Ctrl-C), {where}",
    )
