"""launchd: the steps that load, start and stop our services on a Mac. Pure.

There are two kinds of services. An *agent* (~/Library/LaunchAgents) starts when its owner logs in: at
the screen (domain gui/UID), or over SSH if nobody is logged in at the screen (user/UID). A *daemon*
(/Library/LaunchDaemons, domain system) starts at boot without a login and runs as its owner; changes
need sudo. hostctl/domains.py finds the installed kind.

Rules: ``bootout`` returns before the job has exited, and until then ``bootstrap`` fails, so each
``bootout`` is followed by a wait until launchd has forgotten the job. ``kickstart`` follows each
``bootstrap``, because macOS 26 may delay RunAtLoad. For a running job it exits with 37 or 0; both are
success. Only the modern subcommands are used: bootstrap, bootout, enable, kickstart, print. Tested
with a stateful stand-in (tests/tools/mac/launchctl.py); docs/dev/macos-checklist.md lists the checks on
a real Mac.
"""

from __future__ import annotations

import plistlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hostctl.services import TIERS, Installation, Kind, Tier, is_older, put_aside
from hostctl.steps import Await, Remove, Run, Step

DAEMONS = Path("/Library/LaunchDaemons")
SYSTEM = "system"
# The default of ExitTimeOut, and the time that launchd needs to forget a job.
STOP_S, FORGET_S = 60.0, 10.0
_LABEL = "com.vision-insight.{}"
_DRAFTS = (
    "state/launchd"  # below the root: a daemon's definition is written here, then copied with sudo
)

# Exit statuses of launchctl. A missing domain (112, 125) has no jobs.
_NOT_LOADED = (3, 112, 113, 125)
_ENDS_ALREADY = (36, 37)
_LOADED_ALREADY = (5, 37)
_NOT_YET = (5, 36, 37)
_RUNS_ALREADY = 37
_LOG_IN = (  # the domain gui/UID does not exist
    125,
    "log in at the Mac's screen once, then run it again; `make install BOOT=1` needs no login",
)
# `launchctl print` shows one of these between bootout and the exit of a job.
_ENDING = ("state = SIGTERMed", "state = SIGKILLed")


def label(tier: Tier) -> str:
    return _LABEL.format(tier)


class Launchd:
    """*domain*: for loading services, gui/UID by default. *elsewhere*: other domains in which one is
    loaded. *stop_s*: label -> seconds that launchd gives the job to exit."""

    name = "launchd"

    def __init__(
        self,
        place: Installation,
        domain: str = "",
        *,
        elsewhere: tuple[str, ...] = (),
        stop_s: Mapping[str, float] = MappingProxyType({}),
        daemons: Path = DAEMONS,
    ) -> None:
        self._place = place
        self.domain = domain or f"gui/{place.uid}"
        self.elsewhere = elsewhere
        self.kind: Kind = "daemon" if domain == SYSTEM else "agent"
        self.older_folder = place.home / "Library" / "LaunchAgents"
        self._folder = daemons if self.kind == "daemon" else self.older_folder
        self._stop_s = stop_s

    def template(self, tier: Tier) -> str:
        return f"launchd/{label(tier)}.plist"

    def file(self, tier: Tier) -> Path:
        return self._folder / f"{label(tier)}.plist"

    def draft(self, tier: Tier) -> Path:
        if self.kind == "agent":
            return self.file(tier)
        return self._place.root / _DRAFTS / self.file(tier).name

    def render(self, template: str, place: Installation, stop_s: float) -> str:
        job = plistlib.loads(template.encode())
        job["ExitTimeOut"] = round(stop_s)
        if self.kind == "daemon":
            del job["LimitLoadToSessionType"]
            job["UserName"] = place.user
            job["EnvironmentVariables"]["HOME"] = str(place.home)
        return plistlib.dumps(_filled(job, {"@ROOT@": str(place.root)})).decode()

    def prepare(self) -> list[Step]:
        if self.kind == "agent":
            return []
        cure = "run it as an administrator of this Mac; BOOT=0 installs without"
        return [Run("get the administrator's password (sudo)", ("sudo", "-v"), cure)]

    def activate(self, tier: Tier) -> list[Step]:
        steps = self.deactivate(tier)
        if self.kind == "daemon":
            copy = ("sudo", "install", "-m", "0644", str(self.draft(tier)), str(self.file(tier)))
            steps.append(Run(f"copy {self.file(tier).name} to {self._folder}", copy))
        return [
            *steps,
            self._change(f"enable {label(tier)}", "enable", self._target(tier)),
            self._bootstrap(tier, fine=(0,), tries=10),
            self._kickstart(tier),
        ]

    def deactivate(self, tier: Tier) -> list[Step]:
        return [
            step
            for domain in (self.domain, *self.elsewhere)
            for step in self._leave(label(tier), domain)
        ]

    def forget(self, tier: Tier) -> list[Step]:
        remove = f"remove {self.file(tier).name}"
        if self.kind == "agent":
            return [Remove(remove, self.file(tier))]
        return [
            Run(remove, ("sudo", "rm", "-f", str(self.file(tier)))),
            Remove(f"{remove} (the draft)", self.draft(tier)),
        ]

    def start(self, tier: Tier) -> list[Step]:
        # It may be loaded and running already, or exiting after an interrupted `make stop`.
        return [
            self._wait(label(tier), self.domain, busy=_ENDING),
            self._bootstrap(tier, fine=(0, *_LOADED_ALREADY), tries=1),
            self._kickstart(tier),
        ]

    def stop(self, tier: Tier) -> list[Step]:
        return self.deactivate(tier)

    def restart(self, tier: Tier) -> list[Step]:
        # Not kickstart -k: it would leave no time to drain.
        return self.activate(tier)

    def state_command(self, tier: Tier) -> tuple[str, ...]:
        return print_command(self.domain, tier)

    def is_running(self, status: int, output: str) -> bool:
        return status == 0 and any(line.strip() == "state = running" for line in output.splitlines())

    def older(self, names: Iterable[str]) -> list[str]:
        ours = [label(tier) for tier in TIERS]
        stems = [n.removesuffix(".plist") for n in names if n.endswith(".plist")]
        return [f"{stem}.plist" for stem in stems if is_older(stem, ours)]

    def retire(self, name: str) -> list[Step]:
        older = name.removesuffix(".plist")
        return [
            *self._leave(older, self.domain if self.kind == "agent" else f"gui/{self._place.uid}"),
            put_aside(self.older_folder / name, self._place.root),
        ]

    def outlives_login(self, user: str) -> list[Step]:
        return []  # a daemon does; an agent can't, and `make doctor` describes the automatic login

    def wake(self, tier: Tier) -> str:
        """The command that starts a job which launchd has delayed."""
        return str(self._kickstart(tier))

    def _target(self, tier: Tier) -> str:
        return f"{self.domain}/{label(tier)}"

    def _leave(self, name: str, domain: str) -> list[Step]:
        argv = ("launchctl", "bootout", f"{domain}/{name}")
        fine = (0, 5, *_NOT_LOADED, *_ENDS_ALREADY)  # the wait checks the result
        unload = Run(f"unload {name}", _as_root(argv, domain), fine=fine, quiet=True)
        return [unload, self._wait(name, domain)]

    def _wait(self, name: str, domain: str, busy: tuple[str, ...] = ()) -> Await:
        timeout_s = self._stop_s.get(name, STOP_S) + FORGET_S
        target = f"{domain}/{name}"
        kill = " ".join(_as_root(("launchctl", "kill", "SIGKILL", target), domain))
        return Await(
            f"wait until {name} has stopped",
            ("launchctl", "print", target),
            f"  waiting for open requests to finish ({name}, at most {timeout_s:.0f} s)",
            timeout_s,
            f"stop it with `{kill}`, then run the command again",
            busy,
        )

    def _bootstrap(self, tier: Tier, *, fine: tuple[int, ...], tries: int) -> Run:
        return Run(
            f"load {label(tier)}",
            _as_root(("launchctl", "bootstrap", self.domain, str(self.file(tier))), self.domain),
            cure=f"`plutil -lint '{self.file(tier)}'` and `make doctor` show why",
            tries=tries,
            fine=fine,
            again=_NOT_YET,
            cures=(_LOG_IN,),
            quiet=True,
        )

    def _kickstart(self, tier: Tier) -> Run:
        return self._change(
            f"start {label(tier)}",
            "kickstart",
            self._target(tier),
            fine=(0, _RUNS_ALREADY),
            cures=((113, "launchd does not know it: `make restart` loads it again"),),
        )

    def _change(
        self,
        title: str,
        *words: str,
        fine: tuple[int, ...] = (0,),
        cures: tuple[tuple[int, str], ...] = (),
    ) -> Run:
        argv = _as_root(("launchctl", *words), self.domain)
        cure, by_status = "`make doctor` shows why", (_LOG_IN, *cures)
        return Run(title, argv, cure, fine=fine, cures=by_status, quiet=True)


def print_command(domain: str, tier: Tier) -> tuple[str, ...]:
    return ("launchctl", "print", f"{domain}/{label(tier)}")


def _as_root(argv: tuple[str, ...], domain: str) -> tuple[str, ...]:
    return ("sudo", *argv) if domain == SYSTEM else argv


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(name, text)
    return value
