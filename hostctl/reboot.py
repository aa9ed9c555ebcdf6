"""Whether the stack starts again after a reboot, a power cut or a crash, without a person.

``read`` runs commands; the rest is pure and turns their output into facts, and facts into advice. The
doctor prints the advice, and so does ``make install`` at its end. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.command import output
from hostctl.launchd import Launchd, label, print_command
from hostctl.services import TIERS, Installation, ServiceManager

LOGINWINDOW = "/Library/Preferences/com.apple.loginwindow"
# launchd's exit code for a job that it could not start: no such program, no such folder.
_NOT_STARTED = "78"


@dataclass(frozen=True)
class Advice:
    what: str
    cure: str


@dataclass(frozen=True)
class Job:
    """The state of one service, from ``launchctl print``."""

    name: str
    state: str  # running, not running, SIGTERMed, spawn scheduled, ...
    runs: int = 0
    last_exit: str = ""  # a status, or "(never exited)"
    pended: str = ""  # why macOS delays it
    wake: str = ""  # the command that starts it anyway


@dataclass(frozen=True)
class Outlook:
    """The defaults describe a machine whose stack starts again automatically."""

    linger: bool = True  # systemd starts services without a login
    mac: bool = False
    at_boot: bool = False  # launch daemons
    over_ssh: bool = False  # agents loaded without a login at the screen
    auto_login: bool = True
    filevault: bool = False
    sleeps: bool = False
    low_power: str = ""  # the pmset setting that is on
    autorestart: bool = True
    docker_at_login: bool = True
    jobs: tuple[Job, ...] = ()
    twice: tuple[str, ...] = ()  # commands that unload services from a second domain

    @property
    def starts_without_login(self) -> bool:
        """Whether the stack starts after a reboot without a person."""
        if not self.mac:
            return self.linger
        return self.at_boot or (self.auto_login and not self.filevault)


def read(place: Installation, services: ServiceManager, environ: Mapping[str, str]) -> Outlook:
    if not isinstance(services, Launchd):
        return Outlook(linger=lingers(place.user, environ))
    settings = output(("pmset", "-g"), environ)[1]
    return Outlook(
        mac=True,
        at_boot=services.kind == "daemon",
        over_ssh=services.domain.startswith("user/"),
        auto_login=bool(output(("defaults", "read", LOGINWINDOW, "autoLoginUser"), environ)[1].strip()),
        filevault=filevault(output(("fdesetup", "isactive"), environ)[1]),
        sleeps=sleeps(output(("pmset", "-g", "custom"), environ)[1]),
        low_power=low_power(settings),
        autorestart=setting(settings, "autorestart") != "0",
        docker_at_login=docker_at_login(place.home),
        jobs=tuple(_jobs(services, environ)),
        twice=tuple(
            f"launchctl bootout {domain}/{label(tier)}"
            for domain in services.elsewhere
            for tier in TIERS
            if output(print_command(domain, tier), environ)[0] == 0
        ),
    )


def _jobs(services: Launchd, environ: Mapping[str, str]) -> Iterator[Job]:
    for tier in TIERS:
        status, text = output(services.state_command(tier), environ)
        if status == 0:
            yield job(label(tier), text, services.wake(tier))


def lingers(user: str, environ: Mapping[str, str]) -> bool:
    """Whether systemd runs the services of *user* without a login."""
    linger = output(("loginctl", "show-user", user, "--property=Linger", "--value"), environ)[1]
    return linger.strip() == "yes" or Path("/var/lib/systemd/linger", user).exists()


def filevault(fdesetup: str) -> bool:
    """Whether FileVault is on; ``fdesetup isactive`` prints true or false."""
    return fdesetup.strip().lower().startswith("true")


def setting(pmset: str, name: str) -> str:
    """The value of *name* in the output of ``pmset -g``; "" if this Mac has no such setting."""
    for line in pmset.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return words[1]
    return ""


def low_power(pmset: str) -> str:
    """The setting that enables Low Power Mode: ``lowpowermode``, from macOS 15 on ``powermode`` 1."""
    return next((n for n in ("lowpowermode", "powermode") if setting(pmset, n) == "1"), "")


def sleeps(pmset_custom: str) -> bool:
    """Whether the Mac sleeps automatically on mains power: `` sleep  1`` below ``AC Power:``."""
    section = ""
    for line in pmset_custom.splitlines():
        if line.endswith(":"):
            section = line
        words = line.split()
        if section.startswith("AC") and len(words) >= 2 and words[0] == "sleep":
            return words[1] != "0"
    return False


def docker_at_login(home: Path) -> bool:
    """Whether Docker Desktop starts at login, from its settings file."""
    folder = home / "Library" / "Group Containers" / "group.com.docker"
    for name in ("settings-store.json", "settings.json"):
        file = folder / name
        if file.exists():
            text = file.read_text(errors="replace").replace(" ", "").lower()
            return '"autostart":true' in text
    return True  # not Docker Desktop: unknown


def job(name: str, printed: str, wake: str = "") -> Job:
    """Parse ``launchctl print``. Nested blocks repeat some keys, so the first one is used."""
    found: dict[str, str] = {}
    for line in printed.splitlines():
        key, equals, value = line.strip().partition(" = ")
        if equals and value != "{":
            found.setdefault(key, value)
    pended = found.get("pended nondemand spawn", "")
    return Job(
        name,
        found.get("state", ""),
        int(found["runs"]) if found.get("runs", "").isdigit() else 0,
        found.get("last exit code", "").partition(":")[0],
        "" if pended in ("false", "none") else pended,
        wake,
    )


def service_advice(outlook: Outlook) -> Iterator[Advice]:
    """Services that launchd has loaded but that do not run, or that are loaded twice."""
    for found in outlook.jobs:
        if found.state == "running":
            continue
        if found.pended:
            what = f"macOS delays {found.name} (pended nondemand spawn = {found.pended})"
            yield Advice(what, found.wake)
        elif found.last_exit == "0" and found.runs:
            what = f"{found.name} exited, which it does if its settings are invalid"
            yield Advice(what, "make doctor shows the error; fix it, then make restart")
        elif found.last_exit == _NOT_STARTED:
            what = f"launchd can't start {found.name} (status 78): .venv or the folder is missing"
            yield Advice(what, "make install repairs it")
        elif found.last_exit.strip("-").isdigit():
            file = f"logs/{found.name.rpartition('.')[2]}.launchd.log"
            what = f"{found.name} last exited with status {found.last_exit}"
            yield Advice(what, f"tail {file} shows why; then make restart")
    for command in outlook.twice:
        yield Advice("a service is loaded in two launchd domains; unload one", command)


def advice(outlook: Outlook, *, native: bool) -> Iterator[Advice]:
    """The reasons why the stack would not start again automatically."""
    if not outlook.linger:
        what = "your services run only while you are logged in"
        yield Advice(what, "sudo loginctl enable-linger $USER")
    if not outlook.mac:
        return
    if outlook.filevault:
        yield _locked(outlook)
    elif not outlook.at_boot and not outlook.auto_login:
        what = "launch agents start at login, and no user is logged in after a reboot"
        yield Advice(
            what,
            "System Settings > Users & Groups > Automatically log in as "
            "(or: sudo sysadminctl -autologin set -userName $USER -password -); "
            "or make install BOOT=1, which needs no login",
        )
    if outlook.over_ssh:
        what = "the services were installed over SSH and start only when you log in over SSH"
        yield Advice(what, "make install BOOT=1, which needs no login")
    if outlook.low_power:
        what = "Low Power Mode is on: macOS may not restart a crashed service"
        yield Advice(what, f"sudo pmset -a {outlook.low_power} 0")
    if outlook.sleeps:
        what = "this Mac sleeps when idle, and does not respond while asleep"
        yield Advice(what, "sudo pmset -a sleep 0")
    if not outlook.autorestart:
        what = "this Mac stays off after a power cut"
        yield Advice(what, "sudo pmset -a autorestart 1")
    if not native and not outlook.docker_at_login:
        what = "Docker Desktop does not start at login"
        cure = "Docker Desktop > Settings > General > Start Docker Desktop when you sign in"
        yield Advice(what, cure)


def _locked(outlook: Outlook) -> Advice:
    """With FileVault nothing starts before the disk is unlocked, and automatic login is disabled."""
    unlock = (
        "restart with `sudo fdesetup authrestart`; after a power cut unlock at the screen, or from "
        "macOS 26 on over SSH; or sudo fdesetup disable"
    )
    if outlook.at_boot:
        what = "FileVault is on: after a power cut nothing starts before the disk is unlocked"
        return Advice(what, unlock)
    what = "FileVault is on, which disables automatic login; launch agents start at login"
    return Advice(what, f"make install BOOT=1 needs no login once the disk is unlocked ({unlock})")


def listed(found: Iterator[Advice] | Sequence[Advice]) -> str:
    """*found* as text for the end of ``make install``; "" if there is none."""
    lines = [line for a in found for line in (f"  - {a.what}", f"      -> {a.cure}")]
    return "\n".join(["  After a reboot or a power cut:", *lines, ""]) if lines else ""
