"""The interface of launchd and systemd for installing our services. Pure.

There are two services, named after their tier: the manager, and the gateway unless it runs in Docker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from hostctl.steps import Move, Step

Tier = Literal["manager", "gateway"]
TIERS: tuple[Tier, ...] = ("manager", "gateway")
Kind = Literal["agent", "daemon", "unit"]  # launchd at login, launchd at boot, systemd
REPLACED = "state/replaced"  # below the root: the definitions of older services
BACKGROUND_SETTING = "System Settings > General > Login Items & Extensions"
_BAD = "'\"\\$:\n"  # not safe in service files and Docker's bind mounts


@dataclass(frozen=True)
class Installation:
    """The folder and the owner of an installation."""

    root: Path
    home: Path
    uid: int
    user: str

    @property
    def python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    @property
    def unusable(self) -> str:
        """The unsupported characters in the root's path."""
        return "".join(sorted(c for c in set(str(self.root)) if c in _BAD))


class ServiceManager(Protocol):
    """One service manager. Methods return steps or commands and change nothing themselves."""

    name: str
    kind: Kind
    older_folder: Path  # of the definitions of older services

    def template(self, tier: Tier) -> str:
        """The template's path below the root."""

    def file(self, tier: Tier) -> Path:
        """The path of the installed definition."""

    def draft(self, tier: Tier) -> Path:
        """The path to which the definition is written: ``file``, or a copy for sudo to install."""

    def render(self, template: str, place: Installation, stop_s: float) -> str:
        """The definition; the process has *stop_s* seconds to exit after a stop request."""

    def prepare(self) -> list[Step]:
        """Steps that must precede all changes of a service."""

    def activate(self, tier: Tier) -> list[Step]:
        """Start the service now and at each login or boot; a running one gets the new definition."""

    def deactivate(self, tier: Tier) -> list[Step]:
        """Stop the service permanently, and wait until it has exited; no error if it is missing."""

    def forget(self, tier: Tier) -> list[Step]:
        """Remove the service's definition."""

    def start(self, tier: Tier) -> list[Step]: ...

    def stop(self, tier: Tier) -> list[Step]: ...

    def restart(self, tier: Tier) -> list[Step]: ...

    def state_command(self, tier: Tier) -> tuple[str, ...]: ...

    def is_running(self, status: int, output: str) -> bool:
        """Interpret exit status and output of the state command."""

    def older(self, names: Iterable[str]) -> list[str]:
        """The files among *names* that define older versions of our services."""

    def retire(self, name: str) -> list[Step]:
        """Stop and replace the older service in file *name*."""

    def outlives_login(self, user: str) -> list[Step]:
        """Let services run without a logged-in user."""


def is_older(stem: str, ours: Iterable[str]) -> bool:
    plain = stem.lower().replace("-", "").replace("_", "")
    return "visioninsight" in plain and stem not in ours


def put_aside(file: Path, root: Path) -> Move:
    return Move(f"put {file.name} aside", file, root / REPLACED / file.name)


def background_items(services: str) -> str:
    """A notice for the owner before agents are installed; "" under another service manager.

    Since macOS 13 a notification names the program of each new agent, and a switch in System Settings
    disables it. Owners who do not recognize the name would disable the service.
    """
    if services != "launchd":
        return ""
    return (
        'macOS will show "Background Items Added" with python3, possibly from an unidentified '
        f"developer: that is this service. Leave it enabled in {BACKGROUND_SETTING}."
    )
