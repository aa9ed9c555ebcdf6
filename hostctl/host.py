"""This machine as commands see it: the folder, the environment, the service manager, the options."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

from hostctl import domains, plans
from hostctl import machine as machines
from hostctl.launchd import Launchd
from hostctl.services import TIERS, ServiceManager
from hostctl.steps import Step, perform

if TYPE_CHECKING:
    from contracts.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
# What a service reads of .env, and would not see of this shell (contracts.settings.file.ENVIRONMENT).
SETTINGS = {
    "VISION_CONFIG", "GATEWAY_HOST", "GATEWAY_PORT", "GATEWAY_API_KEY", "WORKER_MANAGER_HOST",
    "WORKER_MANAGER_PORT", "MANAGER_HOST", "MANAGER_PORT", "MANAGER_TOKEN", "IDLE_TIMEOUT",
    "GATEWAY_API_KEYS", "GATEWAY_KEYS_FILE", "LOG_FORMAT",
}  # fmt: skip
HUGGING_FACE = {"HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE"}


class Host:
    """This machine, this folder, and what the caller wants."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._wishes = environ
        self.environ = machines.tool_environ(environ, SETTINGS)
        self.place = machines.place_of(ROOT, environ)
        self.system = os.uname().sysname
        self.services = machines.service_manager(self.place, environ, self.system)
        self.dry_run = self.wants("DRY_RUN")

    def wants(self, name: str) -> bool:
        return self._wishes.get(name, "") not in ("", "0")

    def refuses(self, name: str) -> bool:
        return self._wishes.get(name) == "0"

    def read(self, settings: Mapping[str, str] = MappingProxyType({})) -> machines.Machine:
        """*settings*: those of this shell, where they count."""
        found = machines.read(self.place, self.services, self.environ, settings)
        shell = frozenset(n for n in SETTINGS | HUGGING_FACE if self._wishes.get(n))
        return replace(found, shell_variables=shell)

    def native(self, machine: machines.Machine) -> bool:
        return plans.is_native(machine, self._wishes.get("NATIVE", ""))

    def services_to_install(self) -> ServiceManager:
        """Those that are installed, unless BOOT asks for the other kind (macOS)."""
        wish = plans.boot_wish(self._wishes.get("BOOT", ""))
        if wish and self.system != "Darwin":
            say("BOOT=1 changes nothing here: systemd starts services at boot already (linger)")
        if wish is None or self.system != "Darwin":
            return self.services
        return machines.service_manager(self.place, self.environ, self.system, boot=wish)

    def other_kind(self, services: ServiceManager) -> ServiceManager | None:
        """The services of the other kind than *services*, where they are installed (macOS)."""
        if not isinstance(services, Launchd):
            return None
        return domains.other_kind(self.place, self.environ, services)

    def do(self, steps: list[Step], machine: machines.Machine | None = None) -> None:
        # Compose knows .env and not config.yaml: it is told the ports that both make.
        ports = machine.ports if machine else {}
        told = {f"{t.upper()}_PORT": str(ports[t]) for t in TIERS if t in ports}
        environ = {**self.environ, **told}
        perform(steps, cwd=ROOT, environ=environ, dry_run=self.dry_run, say=say)

    def shell_settings(self, verb: str) -> dict[str, str]:
        """Those that *verb* puts over ``.env``; says so when it leaves VISION_CONFIG out."""
        installed = machines.installed(self.services)
        if plans.shell_counts(verb, installed):
            shell = {name: self._wishes[name] for name in SETTINGS if self._wishes.get(name)}
            return machines.foreground_environ(ROOT, shell)
        if installed and self._wishes.get("VISION_CONFIG"):
            say(f"{verb}: services use .env, and not VISION_CONFIG of this shell", sys.stderr)
        return {}

    def settings(self, shell: Mapping[str, str]) -> Settings:
        """As the services see them, .env over the file; *shell* over both."""
        from contracts.settings.file import load

        return load(None, shell, ROOT / "config.yaml")


def say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)
