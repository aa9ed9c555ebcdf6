"""The host of the stack: its folder, environment and service manager, and the caller's options."""

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
# Variables that services read from .env and not from this shell (contracts.settings.file.ENVIRONMENT).
SETTINGS = {
    "VISION_CONFIG", "GATEWAY_HOST", "GATEWAY_PORT", "GATEWAY_API_KEY", "WORKER_MANAGER_HOST",
    "WORKER_MANAGER_PORT", "MANAGER_HOST", "MANAGER_PORT", "MANAGER_TOKEN", "IDLE_TIMEOUT",
    "GATEWAY_API_KEYS", "GATEWAY_KEYS_FILE", "LOG_FORMAT",
}  # fmt: skip
HUGGING_FACE = {"HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE"}


class Host:
    """This machine and folder. *environ* has the caller's options too: NATIVE, BOOT, PURGE, DRY_RUN."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._caller = environ
        self.environ = machines.tool_environ(environ, SETTINGS)
        self.place = machines.place_of(ROOT, environ)
        self.system = os.uname().sysname
        self.services = machines.service_manager(self.place, environ, self.system)
        self.dry_run = self.is_on("DRY_RUN")

    def is_on(self, name: str) -> bool:
        return self._caller.get(name, "") not in ("", "0")

    def is_off(self, name: str) -> bool:
        return self._caller.get(name) == "0"

    def read(self, settings: Mapping[str, str] = MappingProxyType({})) -> machines.Machine:
        """*settings*: the shell's settings, if the verb uses them."""
        found = machines.read(self.place, self.services, self.environ, settings)
        shell = frozenset(n for n in SETTINGS | HUGGING_FACE if self._caller.get(n))
        return replace(found, shell_variables=shell)

    def native(self, machine: machines.Machine) -> bool:
        return plans.is_native(machine, self._caller.get("NATIVE", ""))

    def services_to_install(self) -> ServiceManager:
        """The installed kind, unless BOOT requests the other one (macOS)."""
        boot = plans.boot_option(self._caller.get("BOOT", ""))
        if boot and self.system != "Darwin":
            say("BOOT=1 is ignored: systemd already starts services at boot (linger)")
        if boot is None or self.system != "Darwin":
            return self.services
        return machines.service_manager(self.place, self.environ, self.system, boot=boot)

    def other_kind(self, services: ServiceManager) -> ServiceManager | None:
        """The other kind of services than *services*, if installed (macOS)."""
        if not isinstance(services, Launchd):
            return None
        return domains.other_kind(self.place, self.environ, services)

    def do(self, steps: list[Step], machine: machines.Machine | None = None) -> None:
        # Compose reads .env, but not config.yaml, so it gets the resulting ports here.
        ports = machine.ports if machine else {}
        environ = {**self.environ, **{f"{t.upper()}_PORT": str(ports[t]) for t in TIERS if t in ports}}
        perform(steps, cwd=ROOT, environ=environ, dry_run=self.dry_run, say=say)

    def shell_settings(self, verb: str) -> dict[str, str]:
        """This shell's settings, if *verb* uses them; prints a note if VISION_CONFIG is ignored."""
        installed = machines.installed(self.services)
        if plans.uses_shell_settings(verb, installed):
            shell = {name: self._caller[name] for name in SETTINGS if self._caller.get(name)}
            return machines.foreground_environ(ROOT, shell)
        if installed and self._caller.get("VISION_CONFIG"):
            say(f"{verb}: services use .env, VISION_CONFIG of this shell is ignored", sys.stderr)
        return {}

    def settings(self, shell: Mapping[str, str]) -> Settings:
        """The settings as the services load them, overridden by *shell*."""
        from contracts.settings.file import load

        return load(None, shell, ROOT / "config.yaml")


def say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)
