"""``python -m hostctl VERB``: what the make targets call. ``DRY_RUN=1`` tells and does nothing.

Exit status: 0 when it is done, 1 when it is not, 2 when the settings can't be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

from contracts import env_file
from contracts.env_file import EnvFileError
from hostctl import domains, plans
from hostctl import machine as machines
from hostctl.launchd import Launchd
from hostctl.preflight import problems
from hostctl.services import TIERS, Services
from hostctl.steps import Step, StepFailed, perform

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

    def services_to_install(self) -> Services:
        """Those that are installed, unless BOOT asks for the other kind (macOS)."""
        wish = plans.boot_wish(self._wishes.get("BOOT", ""))
        if wish and self.system != "Darwin":
            _say("BOOT=1 changes nothing here: systemd starts services at boot already (linger)")
        if wish is None or self.system != "Darwin":
            return self.services
        return machines.service_manager(self.place, self.environ, self.system, boot=wish)

    def other_kind(self, services: Services) -> Services | None:
        """The services of the other kind than *services*, where they are installed (macOS)."""
        if not isinstance(services, Launchd):
            return None
        return domains.other_kind(self.place, self.environ, services)

    def do(self, steps: list[Step], machine: machines.Machine | None = None) -> None:
        # Compose knows .env and not config.yaml: it is told the ports that both make.
        ports = machine.ports if machine else {}
        told = {f"{t.upper()}_PORT": str(ports[t]) for t in TIERS if t in ports}
        environ = {**self.environ, **told}
        perform(steps, cwd=ROOT, environ=environ, dry_run=self.dry_run, say=_say)

    def shell_settings(self, verb: str) -> dict[str, str]:
        """Those that *verb* puts over ``.env``; says so when it leaves VISION_CONFIG out."""
        installed = machines.installed(self.services)
        if plans.shell_counts(verb, installed):
            shell = {name: self._wishes[name] for name in SETTINGS if self._wishes.get(name)}
            return machines.foreground_environ(ROOT, shell)
        if installed and self._wishes.get("VISION_CONFIG"):
            _say(f"{verb}: services use .env, and not VISION_CONFIG of this shell", sys.stderr)
        return {}

    def settings(self, shell: Mapping[str, str]) -> Settings:
        """As the services see them, .env over the file; *shell* over both."""
        from contracts.settings.file import load

        return load(None, shell, ROOT / "config.yaml")


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostctl", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in (
        "install",
        "uninstall",
        "upgrade",
        "start",
        "stop",
        "restart",
        "check",
        "next",
    ):
        verbs.add_parser(verb)
    wait = verbs.add_parser("wait")
    wait.add_argument("what", nargs="?", choices=("both", "gateway"), default="both")
    verbs.add_parser("purge-weights")
    unit = verbs.add_parser("unit")
    unit.add_argument("tier", choices=TIERS)
    unit.add_argument("--write", action="store_true")
    unit.add_argument("--boot", action="store_true", help="that of a launch daemon (macOS)")
    status = verbs.add_parser("status")
    status.add_argument("--json", action="store_true")
    doctor = verbs.add_parser("doctor")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--online", action="store_true", help="ask the hub about every model")
    logs = verbs.add_parser("logs")
    logs.add_argument("what", choices=(*TIERS, "workers"))
    logs.add_argument("--no-follow", action="store_true")
    smoke = verbs.add_parser("smoke")
    smoke.add_argument("what", choices=("all", "images"))
    smoke.add_argument("--url", help="of the gateway (default: this machine's)")
    args = parser.parse_args()
    host = Host(os.environ)
    try:
        return _change(host, args) if args.verb in _CHANGES else _ask(host, args)
    except (StepFailed, EnvFileError) as exc:
        _say(f"{args.verb}: {exc}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say(f"{args.verb}: interrupted; give the command again to go on", sys.stderr)
        return 130


_CHANGES = ("install", "uninstall", "upgrade", "start", "stop", "restart")


def _change(host: Host, args: argparse.Namespace) -> int:
    if host.system == "Darwin" and host.place.uid == 0:
        raise StepFailed(
            "the services belong to a user and not to root; give the command without sudo "
            "(BOOT=1 asks for the password where it needs root)"
        )
    if args.verb == "upgrade":
        again = (sys.executable, "-m", "hostctl", "install")
        host.do(plans.upgrade_plan(host.place, is_checkout=(ROOT / ".git").exists(), install=again))
        return 0
    machine = host.read()
    if args.verb == "install":
        return _install(host, machine)
    if args.verb == "uninstall":
        other = host.other_kind(host.services)
        purge = host.wants("PURGE")
        plan = plans.uninstall_plan(machine, host.place, host.services, purge=purge, leaving=other)
        host.do(plan, machine)
    elif args.verb == "restart":
        host.do(plans.restart_plan(machine, host.place, host.services), machine)
    else:
        host.do(plans.gateway_plan(machine, host.place, host.services, args.verb), machine)
    return 0


def _install(host: Host, machine: machines.Machine) -> int:
    services = host.services_to_install()
    native = host.native(machine)
    if services.kind == "daemon":
        if host.refuses("NATIVE"):
            raise StepFailed(
                "launch daemons start without a login, and Docker Desktop doesn't: leave out NATIVE=0, "
                "or install agents with BOOT=0"
            )
        native = True
    if found := problems(machine, host.place, native=native):
        _say("install: nothing was changed, because\n", sys.stderr)
        for problem in found:
            _say(f"  {problem}", sys.stderr)
        return 1
    file = ROOT / env_file.NAME
    text = file.read_text(encoding="utf-8") if file.exists() else None
    steps = plans.install_plan(
        machine,
        host.place,
        services,
        native=native,
        env_text=text,
        leaving=host.other_kind(services),
    )
    host.do(steps, machine)
    return 0


def _ask(host: Host, args: argparse.Namespace) -> int:
    """What needs the settings, and so .venv."""
    from contracts.settings.file import SettingsError

    try:
        if args.verb == "doctor":
            from hostctl import doctor

            return doctor.main(host, online=args.online, as_json=args.json)
        return _with_settings(host, args, host.shell_settings(args.verb))
    except SettingsError as exc:
        _say(str(exc), sys.stderr)
        return 2


def _with_settings(host: Host, args: argparse.Namespace, shell: Mapping[str, str]) -> int:
    from hostctl import health, reboot, smoke, status, weights

    settings = host.settings(shell)
    hub = weights.hub_folder({**host.environ, **env_file.read(ROOT / env_file.NAME)})
    if args.verb == "wait":
        missing = health.wait(settings, gateway_alone=args.what == "gateway")
        for line in missing:
            _say(line, sys.stderr)
        return 1 if missing else 0
    if args.verb == "next":
        outlook = reboot.read(host.place, host.services, host.environ)
        found = reboot.advice(outlook, native="gateway" in machines.installed(host.services))
        words = health.what_next(settings, machines.lan_address(), hub, at_boot=outlook.starts_alone)
        _say(f"{words}{reboot.told(found)}")
    elif args.verb == "unit":
        from hostctl import units  # which imports both tiers

        services = machines.service_manager(host.place, host.environ, host.system, boot=args.boot)
        step = units.definition(services, args.tier, host.place, settings)
        if not args.write:
            _say(step.text)
        else:
            perform([step], cwd=ROOT, environ=host.environ, say=lambda text: None)
    elif args.verb == "purge-weights":
        host.do([*weights.purge_steps(settings, hub)])
    elif args.verb == "smoke":
        return smoke.main(settings, args.url, images_only=args.what == "images")
    elif args.verb == "logs":
        folder = Path(settings.manager.log_dir)
        argv = plans.log_command(host.read(shell), folder, args.what, follow=not args.no_follow)
        if not argv:
            _say(f"no {args.what.removesuffix('s')} has written a log in {folder} yet")
            return 0
        os.chdir(ROOT)
        os.execvpe(argv[0], argv, dict(host.environ))
    elif args.verb == "status":
        report = status.gather(settings, host.read(shell))
        _say(json.dumps(report.as_json(), indent=2) if args.json else status.screen(report))
        return 0 if report.healthy else 1
    return 0


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
