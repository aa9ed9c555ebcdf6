"""launchd: agents in ~/Library/LaunchAgents, which run while their owner is logged in. Pure.

Tested by simulation (a ``launchctl`` that records its calls); docs/dev/macos-checklist.md is what a
Mac's owner runs. Only the modern subcommands are used: bootstrap, bootout, enable, kickstart, print.
"""

from __future__ import annotations

import plistlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hostctl.services import TIERS, Place, Tier, is_older, put_aside
from hostctl.steps import Run, Step

_LABEL = "com.vision-insight.{}"


class Launchd:
    name = "launchd"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = place.home / "Library" / "LaunchAgents"
        self._domain = f"gui/{place.uid}"

    def template(self, tier: Tier) -> str:
        return f"launchd/{_LABEL.format(tier)}.plist"

    def file(self, tier: Tier) -> Path:
        return self._folder / f"{_LABEL.format(tier)}.plist"

    def render(self, template: str, place: Place, stop_s: float) -> str:
        agent = plistlib.loads(template.encode())
        agent["ExitTimeOut"] = round(stop_s)
        return plistlib.dumps(_filled(agent, {"@ROOT@": str(place.root)})).decode()

    def activate(self, tier: Tier) -> list[Step]:
        # launchd lets go of a service some time after bootout has returned, and refuses until then.
        label = _LABEL.format(tier)
        return [
            *self._bootout(label),
            Run(f"enable {label}", ("launchctl", "enable", f"{self._domain}/{label}")),
            Run(
                f"load {label}",
                ("launchctl", "bootstrap", self._domain, str(self.file(tier))),
                cure="log in at the Mac's screen once, then give the command again",
                tries=30,
            ),
            *self._kickstart(label),
        ]

    def deactivate(self, tier: Tier) -> list[Step]:
        return self._bootout(_LABEL.format(tier))

    def start(self, tier: Tier) -> list[Step]:
        label = _LABEL.format(tier)
        command = ("launchctl", "bootstrap", self._domain, str(self.file(tier)))
        return [Run(f"load {label}", command, else_say=""), *self._kickstart(label)]

    def stop(self, tier: Tier) -> list[Step]:
        return self._bootout(_LABEL.format(tier))

    def restart(self, tier: Tier) -> list[Step]:
        # Not kickstart -k, which would give it no time to drain.
        return self.activate(tier)

    def state_command(self, tier: Tier) -> tuple[str, ...]:
        return ("launchctl", "print", f"{self._domain}/{_LABEL.format(tier)}")

    def is_running(self, status: int, output: str) -> bool:
        return status == 0 and any(line.strip() == "state = running" for line in output.splitlines())

    def older(self, names: Iterable[str]) -> list[str]:
        ours = [_LABEL.format(tier) for tier in TIERS]
        stems = [n.removesuffix(".plist") for n in names if n.endswith(".plist")]
        return [f"{stem}.plist" for stem in stems if is_older(stem, ours)]

    def retire(self, name: str) -> list[Step]:
        return [
            *self._bootout(name.removesuffix(".plist")),
            put_aside(self._folder / name, self._place.root),
        ]

    def outlives_login(self, user: str) -> list[Step]:
        return []  # agents need a login: `make doctor` tells how to have it happen by itself

    def _bootout(self, label: str) -> list[Step]:
        return [
            Run(f"unload {label}", ("launchctl", "bootout", f"{self._domain}/{label}"), else_say="")
        ]

    def _kickstart(self, label: str) -> list[Step]:
        return [Run(f"start {label}", ("launchctl", "kickstart", f"{self._domain}/{label}"))]


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(name, text)
    return value
