"""``python -m hostctl VERB``: what the make targets call. ``DRY_RUN=1`` prints the steps only.

Exit status: 0 on success, 1 on failure, 2 if the settings are invalid, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from contracts import env_file
from contracts.env_file import EnvFileError
from hostctl import machine as machines
from hostctl import plans
from hostctl.host import ROOT, Host, say
from hostctl.preflight import problems
from hostctl.services import TIERS
from hostctl.steps import StepFailed, perform


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
    unit.add_argument("--boot", action="store_true", help="define a launch daemon (macOS)")
    status = verbs.add_parser("status")
    status.add_argument("--json", action="store_true")
    doctor = verbs.add_parser("doctor")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--online", action="store_true", help="also check the models on the Hub")
    logs = verbs.add_parser("logs")
    logs.add_argument("what", choices=(*TIERS, "workers"))
    logs.add_argument("--no-follow", action="store_true")
    smoke = verbs.add_parser("smoke")
    smoke.add_argument("what", choices=("all", "images"))
    smoke.add_argument("--url", help="URL of the gateway (default: on this machine)")
    args = parser.parse_args()
    host = Host(os.environ)
    try:
        return _change(host, args) if args.verb in _CHANGES else _ask(host, args)
    except (StepFailed, EnvFileError) as exc:
        say(f"{args.verb}: {exc}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(f"{args.verb}: interrupted; run it again to continue", sys.stderr)
        return 130


_CHANGES = ("install", "uninstall", "upgrade", "start", "stop", "restart")


def _change(host: Host, args: argparse.Namespace) -> int:
    if host.system == "Darwin" and host.place.uid == 0:
        raise StepFailed(
            "the services belong to a user, not to root: run it without sudo "
            "(BOOT=1 asks for the password when it needs root)"
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
        purge = host.is_on("PURGE")
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
        if host.is_off("NATIVE"):
            raise StepFailed(
                "launch daemons start without a login, Docker Desktop does not: omit NATIVE=0, "
                "or install agents with BOOT=0"
            )
        native = True
    if found := problems(machine, host.place, native=native):
        say("install: nothing was changed:\n", sys.stderr)
        for problem in found:
            say(f"  {problem}", sys.stderr)
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
    """The verbs that need the settings, and therefore .venv."""
    from contracts.settings.file import SettingsError

    try:
        if args.verb == "doctor":
            from hostctl import doctor

            return doctor.main(host, online=args.online, as_json=args.json)
        return _with_settings(host, args, host.shell_settings(args.verb))
    except SettingsError as exc:
        say(str(exc), sys.stderr)
        return 2


def _with_settings(host: Host, args: argparse.Namespace, shell: Mapping[str, str]) -> int:
    from hostctl import health, reboot, smoke, status, weights

    settings = host.settings(shell)
    hub = weights.hub_folder({**host.environ, **env_file.read(ROOT / env_file.NAME)})
    if args.verb == "wait":
        missing = health.wait(settings, gateway_alone=args.what == "gateway")
        for line in missing:
            say(line, sys.stderr)
        return 1 if missing else 0
    if args.verb == "next":
        outlook = reboot.read(host.place, host.services, host.environ)
        found = reboot.advice(outlook, native="gateway" in machines.installed(host.services))
        lan = machines.lan_address()
        text = health.next_steps(settings, lan, hub, at_boot=outlook.starts_without_login)
        say(f"{text}{reboot.listed(found)}")
    elif args.verb == "unit":
        from hostctl import units  # which imports both tiers

        services = machines.service_manager(host.place, host.environ, host.system, boot=args.boot)
        step = units.definition(services, args.tier, host.place, settings)
        if not args.write:
            say(step.text)
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
            say(f"no {args.what.removesuffix('s')} has written a log in {folder} yet")
            return 0
        os.chdir(ROOT)
        os.execvpe(argv[0], argv, dict(host.environ))
    elif args.verb == "status":
        report = status.gather(settings, host.read(shell))
        say(json.dumps(report.as_json(), indent=2) if args.json else status.screen(report))
        return 0 if report.healthy else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
