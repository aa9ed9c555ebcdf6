#!/usr/bin/env -S python3 -S -E
"""A stateful stand-in for ``launchctl``, as reported for macOS 26 and 27. Standard library only.

It starts no process: a job is a file with the state that launchd would show. Every call except print is
appended to ``$LAUNCHD_STATE/calls``. Environment variables:

LAUNCHD_STATE    the folder of its state; a file ``clock`` in it sets the time (else the machine's time)
DRAIN_S          seconds that a job needs to exit after SIGTERM; launchd kills it at its ExitTimeOut
DRAIN_S_GATEWAY  the same for the job whose label ends in .gateway; likewise for others
UNKILLABLE=1     a job survives even SIGKILL (it hangs in the kernel)
PENDED=1         macOS delays jobs with RunAtLoad ("pended nondemand spawn")
KICK0=1          kickstart of a running job returns 0; by most reports it returns 37
NO_GUI=1         nobody is logged in at the screen: the domain gui/UID returns 125
AS_ROOT=1        set by the stand-in for sudo: only root may change the domain system
"""

import json
import os
import plistlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MESSAGES = {
    1: "Operation not permitted",
    3: "No such process",
    5: "Input/output error",
    36: "Operation now in progress",
    37: "Operation already in progress",
    125: "Domain does not support specified action",
}
FAILED = {"bootstrap": "Bootstrap failed", "bootout": "Boot-out failed"}


class Refused(Exception):
    """*message*: "" prints launchctl's message for *status*."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class Launchctl:
    """``main(["print", "gui/501/x"])`` returns the exit status; *out* and *err* have the output."""

    def __init__(
        self, environ: Mapping[str, str], now: "Callable[[], float | None]" = lambda: None
    ) -> None:
        self._environ = environ
        self._clock = now
        self._state = Path(environ["LAUNCHD_STATE"])
        self.out = self.err = ""

    def main(self, argv: "list[str]") -> int:
        verb, *arguments = argv
        if verb != "print":
            with (self._state / "calls").open("a") as calls:
                calls.write(" ".join(argv) + "\n")
        does: dict[str, Callable[..., None]] = {
            "bootstrap": self._bootstrap,
            "bootout": self._bootout,
            "kickstart": self._kickstart,
            "enable": self._enable,
            "print": self._print,
        }
        try:
            does[verb](*arguments)
        except Refused as exc:
            words = f"{FAILED.get(verb, verb)}: {exc.status}: {MESSAGES.get(exc.status, '')}\n"
            hint = "Try re-running the command as root for richer errors.\n"
            silent = verb == "kickstart" and exc.status == 37
            text = f"{exc}\n" if str(exc) else words + (hint if verb == "bootstrap" else "")
            self.err = "" if silent else text
            return exc.status
        return 0

    def _bootstrap(self, domain: str, path: str) -> None:
        self._check(domain)
        file = Path(path)
        if not file.exists() or file.stat().st_mode & 0o022:
            raise Refused(5)  # no such file, or "Path had bad ownership/permissions"
        definition = plistlib.loads(file.read_bytes())
        if domain != "system":
            session = "Aqua" if domain.startswith("gui/") else "Background"
            if session not in definition.get("LimitLoadToSessionType", "Aqua"):
                raise Refused(5)
        label = definition["Label"]
        if self._job(domain, label) is not None:
            raise Refused(5)
        at_load = bool(definition.get("RunAtLoad"))
        job = {
            "running": at_load and not self._on("PENDED"),
            "runs": int(at_load and not self._on("PENDED")),
            "pended": at_load and self._on("PENDED"),
            "exit": "(never exited)",
            "exit_timeout": definition.get("ExitTimeOut", 20),
            "gone_at": None,
            "killed": False,
        }
        self._keep(domain, label, job)

    def _bootout(self, target: str) -> None:
        domain, _, label = target.rpartition("/")
        self._check(domain)
        job = self._job(domain, label)
        if job is None:
            raise Refused(3)
        if job["gone_at"] is not None:
            raise Refused(36)
        own = f"DRAIN_S_{label.rpartition('.')[2].upper()}"
        drain_s = float(self._environ.get(own) or self._environ.get("DRAIN_S") or 0.05)
        drain_s = drain_s if job["running"] else 0.0
        job["killed"] = drain_s > job["exit_timeout"]
        lives_s = 1e9 if self._on("UNKILLABLE") else min(drain_s, job["exit_timeout"])
        job["gone_at"] = self._now() + lives_s
        self._keep(domain, label, job)

    def _kickstart(self, target: str) -> None:
        domain, _, label = target.rpartition("/")
        self._check(domain)
        job = self._job(domain, label)
        if job is None:
            raise Refused(113, f'Could not find service "{label}" in domain for {domain}')
        if job["gone_at"] is not None:
            raise Refused(37)
        if job["running"]:
            if not self._on("KICK0"):
                raise Refused(37)
            return
        job.update(running=True, pended=False, runs=job["runs"] + 1)
        self._keep(domain, label, job)

    def _enable(self, target: str) -> None:
        self._check(target.rpartition("/")[0])

    def _print(self, target: str) -> None:
        absent = target.startswith("gui/") and self._on("NO_GUI")
        if target.count("/") == 1 and not target.startswith("system/"):
            if absent:
                raise Refused(112, f"Bad request.\nCould not find domain for {target}")
            self.out = f"{target} = {{\n\ttype = login\n}}\n"
            return
        domain, _, label = target.rpartition("/")
        job = None if absent else self._job(domain, label)
        if job is None:
            raise Refused(113, f'Bad request.\nCould not find service "{label}" in domain for {domain}')
        state = "running" if job["running"] else "not running"
        lines = [
            f"{target} = {{",
            "\tactive count = 1",
            f"\tstate = {'SIGTERMed' if job['gone_at'] is not None else state}",
            f"\truns = {job['runs']}",
            *(["\tpid = 4242"] if job["running"] else []),
            f"\tlast exit code = {job['exit']}",
            "\tresource coalition = {\n\t\tID = 1\n\t\tstate = active\n\t}",
            f"\tpended nondemand spawn = {'inefficient' if job['pended'] else 'false'}",
            "}\n",
        ]
        self.out = "\n".join(lines)

    def _check(self, domain: str) -> None:
        if domain.startswith("gui/") and self._on("NO_GUI"):
            raise Refused(125)
        if domain == "system" and not self._on("AS_ROOT"):
            raise Refused(1)

    def _job(self, domain: str, label: str) -> "dict[str, Any] | None":
        """The job loaded as *label*; None if it is not loaded or has exited by now."""
        file = self._file(domain, label)
        if not file.exists():
            return None
        job: dict[str, Any] = json.loads(file.read_text())
        if job["gone_at"] is not None and self._now() >= job["gone_at"]:
            file.unlink()
            if job["killed"]:
                (self._state / "killed").write_text(label)
            return None
        return job

    def _keep(self, domain: str, label: str, job: "dict[str, Any]") -> None:
        file = self._file(domain, label)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(job))

    def _file(self, domain: str, label: str) -> Path:
        return self._state / "jobs" / domain.replace("/", "-") / label

    def _now(self) -> float:
        if (now := self._clock()) is not None:
            return now
        file = self._state / "clock"
        return float(file.read_text()) if file.exists() else time.time()

    def _on(self, name: str) -> bool:
        return self._environ.get(name, "") not in ("", "0")


if __name__ == "__main__":
    stand_in = Launchctl(os.environ)
    status = stand_in.main(sys.argv[1:])
    sys.stdout.write(stand_in.out)
    sys.stderr.write(stand_in.err)
    sys.exit(status)
