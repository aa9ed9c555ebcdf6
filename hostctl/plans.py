"""The plans of install, uninstall, start, stop, restart and upgrade: lists of steps. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from contracts import env_file
from hostctl.machine import GIB, SMALL_CONFIG, Machine, why_small
from hostctl.preflight import notes
from hostctl.services import TIERS, Installation, ServiceManager, Tier, background_items
from hostctl.steps import Remove, Run, Say, Step, Write

COMPOSE = ("docker", "compose")


def is_native(machine: Machine, option: str) -> bool:
    """Whether the gateway runs as a service: by *option* (NATIVE), else as it runs now.

    New installs use Docker; below 24 GB on a Mac they use a service, because Docker's virtual machine
    takes memory that the models need.
    """
    if option:
        return option.lower() not in ("0", "no", "off", "false")
    if machine.installed or machine.container:
        return "gateway" in machine.installed
    return _saves_memory(machine)


def _saves_memory(machine: Machine) -> bool:
    """Whether a native gateway leaves noticeably more memory for models."""
    return machine.system == "Darwin" and machine.is_small


def boot_option(value: str) -> bool | None:
    """The variable BOOT: "1" launch daemons, "0" agents, "" the installed kind."""
    return value != "0" if value else None


def uses_shell_settings(verb: str, installed: frozenset[Tier]) -> bool:
    """Whether *verb* uses the shell's settings: if it inspects a stack started by `make up`."""
    return verb in ("doctor", "status", "smoke", "logs") and not installed


def install_plan(
    machine: Machine,
    place: Installation,
    services: ServiceManager,
    *,
    native: bool,
    env_text: str | None,
    leaving: ServiceManager | None = None,
) -> list[Step]:
    """*env_text*: content of ``.env``, None if missing. *leaving*: installed services to replace."""
    mine = place.python
    steps: list[Step] = [
        *(Say(f"note: {note}") for note in notes(machine, place)),
        *_gateway_notes(machine, native=native),
        *(services.prepare() or (leaving.prepare() if leaving else [])),
        Run(
            "install the packages into .venv",
            (sys.executable, "scripts/setup.py", "host"),
            cure="the reason is above; run it again to continue",
        ),
        *_env_steps(machine, place, env_text),
        Run(
            "check the settings", (str(mine), "-m", "hostctl", "check"), cure="the file is named above"
        ),
        Run("create the log folder", ("mkdir", "-p", str(place.root / "logs"))),
    ]
    for name in machine.older:
        steps += services.retire(name)
    if notice := background_items(services.name):
        steps.append(Say(notice))
    if leaving:
        steps += _end_and_forget(leaving, TIERS)
    steps += _service_steps(place, services, "manager")
    steps += services.outlives_login(place.user)
    if native:
        if machine.container:
            steps.append(Run("remove the gateway's container", (*COMPOSE, "down")))
        steps += _service_steps(place, services, "gateway")
    else:
        if "gateway" in machine.installed:
            steps += _end_and_forget(services, ["gateway"])
        steps.append(
            Run(
                "start the gateway in Docker",
                (*COMPOSE, "up", "-d", "--build", "--wait", "--wait-timeout", "120"),
                cure="`make logs` shows why; `make install NATIVE=1` installs without Docker",
            )
        )
    return [
        *steps,
        Run(
            "wait until both tiers respond",
            (str(mine), "-m", "hostctl", "wait"),
            cure="`make doctor` shows why; undo with `make uninstall`",
        ),
        Run("print the next steps", (str(mine), "-m", "hostctl", "next")),
    ]


def _gateway_notes(machine: Machine, *, native: bool) -> list[Step]:
    if not _saves_memory(machine) or machine.installed:
        return []
    memory = f"{machine.ram_bytes / GIB:.0f} GB of memory"
    limit = "Docker Desktop > Settings > Resources > Memory: 2 GB"
    if native:
        text = (
            f"{memory}: the gateway runs without Docker, to leave memory for the models "
            f"(NATIVE=0 uses Docker; then set {limit})"
        )
    else:
        text = f"{memory}: Docker takes up to half of it; set {limit}"
    return [Say(text)]


def _env_steps(machine: Machine, place: Installation, env_text: str | None) -> list[Step]:
    file = place.root / env_file.NAME
    text = env_text
    steps: list[Step] = []
    if text is None:
        text = (place.root / ".env.example").read_text(encoding="utf-8")
    if machine.is_small and not machine.variables.get("VISION_CONFIG"):
        text = env_file.with_value(text, "VISION_CONFIG", SMALL_CONFIG)
        steps.append(Say(why_small(machine.ram_bytes)))
    lost = sorted(machine.shell_variables - set(machine.variables))
    if lost:
        steps.append(
            Say(f"services do not use this shell's variables: set {', '.join(lost)} in .env instead")
        )
    title = "write .env" if text != env_text else "make .env private"
    return [*steps, Write(title, file, text, 0o600)]


def _service_steps(place: Installation, services: ServiceManager, tier: Tier) -> list[Step]:
    kind = ("--boot",) if services.kind == "daemon" else ()
    write = (str(place.python), "-m", "hostctl", "unit", tier, "--write", *kind)
    return [
        Run(f"write the {services.name} definition {services.file(tier).name}", write),
        *services.activate(tier),
    ]


def _end_and_forget(services: ServiceManager, tiers: Iterable[Tier]) -> list[Step]:
    """Stop *tiers*, the gateway first, then remove them: nothing is removed while one still runs."""
    ordered = [tier for tier in reversed(TIERS) if tier in tiers]
    return [
        *(step for tier in ordered for step in services.deactivate(tier)),
        *(step for tier in ordered for step in services.forget(tier)),
    ]


def uninstall_plan(
    machine: Machine,
    place: Installation,
    services: ServiceManager,
    *,
    purge: bool,
    leaving: ServiceManager | None = None,
) -> list[Step]:
    """*leaving*: installed services of the other kind, which are removed too."""
    # A service without a definition file may still run, using the .venv that is removed here.
    there = machine.installed | machine.running
    steps: list[Step] = []
    if there:
        steps += [*services.prepare(), *_end_and_forget(services, there)]
    if leaving:
        steps += [*leaving.prepare(), *_end_and_forget(leaving, TIERS)]
    if machine.docker == "running" and machine.compose:
        remove = (*COMPOSE, "down", "--rmi", "all", "--remove-orphans")
        steps.append(Run("remove the gateway's container", remove, else_say="  could not be removed"))
    elif machine.docker == "stopped":
        steps.append(
            Say("Docker is not running: start it and run `make uninstall` again to remove a container")
        )
    if purge and machine.has_venv:
        weights = (str(place.python), "-m", "hostctl", "purge-weights")
        steps.append(Run("remove the weights of the configured models", weights, else_say="  not done"))
    gone = [".venv", ".python", "logs", *((".env", "state") if purge else ())]
    steps += [Remove(f"remove {name}", place.root / name) for name in gone]
    kept = (
        "config.yaml"
        if purge
        else "config.yaml, .env, state/ and the models' weights (PURGE=1 removes all but config.yaml)"
    )
    return [*steps, Say(f"kept: {kept}")]


def gateway_plan(
    machine: Machine, place: Installation, services: ServiceManager, verb: str
) -> list[Step]:
    """Start or stop the gateway; manager and workers are not affected."""
    if "gateway" in machine.installed:
        if verb == "stop":
            return [*services.prepare(), *services.stop("gateway")]
        wait = (str(place.python), "-m", "hostctl", "wait", "gateway")
        cure = "`make doctor` shows why"
        return [
            *services.prepare(),
            *services.start("gateway"),
            Run("wait until the gateway responds", wait, cure=cure),
        ]
    if verb == "start":
        up = (*COMPOSE, "up", "-d", "--wait", "--wait-timeout", "120")
        return [Run("start the gateway", up, cure="`make doctor` shows why")]
    return [Run("stop the gateway", (*COMPOSE, "stop"), cure="check that the Docker engine runs")]


def restart_plan(machine: Machine, place: Installation, services: ServiceManager) -> list[Step]:
    """Restart both tiers with the current settings; service definitions are written again."""
    check = Run("check the settings", (str(place.python), "-m", "hostctl", "check"))
    steps: list[Step] = [check, *(services.prepare() if machine.installed else [])]
    for tier in TIERS:
        if tier in machine.installed:
            steps += _service_steps(place, services, tier)
    if "gateway" not in machine.installed:
        up = (*COMPOSE, "up", "-d", "--force-recreate", "--wait", "--wait-timeout", "120")
        steps.append(Run("restart the gateway in Docker", up, cure="`make logs` shows why"))
    wait = (str(place.python), "-m", "hostctl", "wait")
    return [*steps, Run("wait until both tiers respond", wait)]


def upgrade_plan(place: Installation, *, is_checkout: bool, install: tuple[str, ...]) -> list[Step]:
    """Fetch newer code, then install with that code; settings and learned peaks are kept."""
    steps: list[Step] = []
    if is_checkout:
        pull = ("git", "pull", "--ff-only")
        steps.append(Run("fetch the latest version", pull, cure="commit or stash your changes first"))
    else:
        steps.append(Say(f"{place.root} is not a git checkout: unpack the new version over it first"))
    return [*steps, Run("install it", install)]


def log_command(machine: Machine, logs: Path, what: str, *, follow: bool) -> tuple[str, ...]:
    """The command that shows the log of *what*, also of a stack in the foreground; (): no log."""
    tail = ("tail", "-n", "100", *(("-F",) if follow else ()))
    if what == "gateway" and machine.container and "gateway" not in machine.installed:
        return (*COMPOSE, "logs", "--tail", "100", *(("--follow",) if follow else ()), "gateway")
    if what in TIERS:
        file = logs / f"{what}.log"
        return (*tail, str(file)) if what in machine.installed or file.exists() else ()
    workers = sorted(str(f) for f in logs.glob("*.log") if f.stem.partition(".")[0] not in TIERS)
    return (*tail, *workers) if workers else ()
