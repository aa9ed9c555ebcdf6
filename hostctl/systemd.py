"""systemd: user units in the owner's unit folder. Pure.

With linger they start at boot; without it they run from the first login to the last logout.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hostctl.services import TIERS, Installation, Kind, Tier, is_older, put_aside
from hostctl.steps import Remove, Run, Step

_UNIT = "vision-insight-{}"


class Systemd:
    name = "systemd"
    kind: Kind = "unit"

    def __init__(self, place: Installation, config_home: Path | None = None) -> None:
        self._place = place
        self._folder = (config_home or place.home / ".config") / "systemd" / "user"
        self.older_folder = self._folder

    def template(self, tier: Tier) -> str:
        return f"packaging/systemd/{_UNIT.format(tier)}.service"

    def file(self, tier: Tier) -> Path:
        return self._folder / f"{_UNIT.format(tier)}.service"

    def draft(self, tier: Tier) -> Path:
        return self.file(tier)

    def render(self, template: str, place: Installation, stop_s: float) -> str:
        root = str(place.root).replace("%", "%%")  # % begins a specifier
        values = {"ROOT": root, "PYTHON": f"{root}/.venv/bin/python", "STOP_S": f"{stop_s:.0f}"}
        for name, value in values.items():
            template = template.replace(f"@{name}@", value)
        return template

    def prepare(self) -> list[Step]:
        return []

    def activate(self, tier: Tier) -> list[Step]:
        unit = _UNIT.format(tier)
        return [
            _systemctl("reload the units", "daemon-reload"),
            _systemctl(f"enable {unit}", "enable", "--quiet", unit),
            _systemctl(
                f"start {unit}", "restart", unit, cure="`make logs-manager` and `make doctor` show why"
            ),
        ]

    def deactivate(self, tier: Tier) -> list[Step]:
        unit = _UNIT.format(tier)
        return [
            _systemctl(f"stop and disable {unit}", "disable", "--quiet", "--now", unit, else_say=""),
            _systemctl(f"reset the state of {unit}", "reset-failed", unit, else_say=""),
        ]

    def forget(self, tier: Tier) -> list[Step]:
        return [Remove(f"remove {self.file(tier).name}", self.file(tier))]

    def start(self, tier: Tier) -> list[Step]:
        unit = _UNIT.format(tier)
        return [_systemctl(f"start {unit}", "start", unit)]

    def stop(self, tier: Tier) -> list[Step]:
        unit = _UNIT.format(tier)
        return [_systemctl(f"stop {unit}", "stop", unit)]

    def restart(self, tier: Tier) -> list[Step]:
        unit = _UNIT.format(tier)
        return [_systemctl(f"restart {unit}", "restart", unit)]

    def state_command(self, tier: Tier) -> tuple[str, ...]:
        return ("systemctl", "--user", "is-active", _UNIT.format(tier))

    def is_running(self, status: int, output: str) -> bool:
        return output.strip() == "active"

    def older(self, names: Iterable[str]) -> list[str]:
        ours = [_UNIT.format(tier) for tier in TIERS]
        stems = [n.removesuffix(".service") for n in names if n.endswith(".service")]
        return [f"{stem}.service" for stem in stems if is_older(stem, ours)]

    def retire(self, name: str) -> list[Step]:
        return [
            _systemctl(f"stop the older service {name}", "disable", "--now", name, else_say=""),
            put_aside(self._folder / name, self._place.root),
            _systemctl("reload the units", "daemon-reload"),
        ]

    def outlives_login(self, user: str) -> list[Step]:
        return [
            Run(
                "let services run without a login (linger)",
                ("loginctl", "enable-linger", user),
                else_say="  linger could not be enabled: after a reboot the stack starts only when you "
                f"log in. To fix it: sudo loginctl enable-linger {user}",
            )
        ]


def _systemctl(title: str, *words: str, cure: str = "", else_say: str | None = None) -> Run:
    return Run(title, ("systemctl", "--user", *words), cure, else_say)
