"""What launchd and systemd have in common, as far as installing is concerned. Pure.

Two services, named by their tier: the manager always, the gateway only where it doesn't run in Docker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from hostctl.steps import Move, Step

Tier = Literal["manager", "gateway"]
TIERS: tuple[Tier, ...] = ("manager", "gateway")
Kind = Literal["agent", "daemon", "unit"]  # of launchd, of launchd without a login, of systemd
REPLACED = "state/replaced"  # where the definition of an older service goes, below the root
BACKGROUND_SETTING = "System Settings > General > Login Items & Extensions"
_BAD = "'\"\\$:\n"  # no service file and no bind mount of Docker's can be trusted with these


@dataclass(frozen=True)
class Installation:
    """Where the stack is installed, and for whom."""

    root: Path
    home: Path
    uid: int
    user: str

    @property
    def python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    @property
    def unusable(self) -> str:
        """Characters of the root's name that keep it from being installed there."""
        return "".join(sorted(c for c in set(str(self.root)) if c in _BAD))


class ServiceManager(Protocol):
    """One service manager. Every method answers with steps or commands; none does anything."""

    name: str
    kind: Kind
    older_folder: Path  # where the definitions of older services lie

    def template(self, tier: Tier) -> str:
        """The template's file below the root."""

    def file(self, tier: Tier) -> Path:
        """Where the rendered definition lies."""

    def draft(self, tier: Tier) -> Path:
        """Where the definition is written: there, or where root copies it from."""

    def render(self, template: str, place: Installation, stop_s: float) -> str:
        """The definition; a process that is told to end has *stop_s* seconds."""

    def prepare(self) -> list[Step]:
        """What comes before any other step that changes a service."""

    def activate(self, tier: Tier) -> list[Step]:
        """Have it started now, and at each login or boot; with a new definition, if it ran already."""

    def deactivate(self, tier: Tier) -> list[Step]:
        """End it now and for ever, and wait until it has ended; nothing when it isn't there."""

    def forget(self, tier: Tier) -> list[Step]:
        """Remove its definition."""

    def start(self, tier: Tier) -> list[Step]: ...

    def stop(self, tier: Tier) -> list[Step]: ...

    def restart(self, tier: Tier) -> list[Step]: ...

    def state_command(self, tier: Tier) -> tuple[str, ...]: ...

    def is_running(self, status: int, output: str) -> bool:
        """What the state command said."""

    def older(self, names: Iterable[str]) -> list[str]:
        """Those of the files *names*, beside ours, that are an older service of the same purpose."""

    def retire(self, name: str) -> list[Step]:
        """End the older service in file *name*."""

    def outlives_login(self, user: str) -> list[Step]:
        """Have services run without anybody logged in."""


def is_older(stem: str, ours: Iterable[str]) -> bool:
    plain = stem.lower().replace("-", "").replace("_", "")
    return "visioninsight" in plain and stem not in ours


def put_aside(file: Path, root: Path) -> Move:
    return Move(f"put {file.name} aside", file, root / REPLACED / file.name)


def background_items(services: str) -> str:
    """What macOS will show when agents are installed, said before; "" under another service manager.

    Since macOS 13 a notification names the program of each new agent, and a switch in System Settings
    disables it: whoever takes it for something foreign there ends the service.
    """
    if services != "launchd":
        return ""
    return (
        'macOS will say "Background Items Added" and name python3, perhaps as from an unidentified '
        f"developer: that is this service. Leave it on in {BACKGROUND_SETTING}."
    )
