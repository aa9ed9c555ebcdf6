"""A Mac for the tests: hostctl and its children run as on Darwin, with stand-ins for the Mac's tools.

``launchctl`` has state and a clock that the test moves, so a drain of 45 s takes no time
(tests/tools/mac/launchctl.py). pmset, fdesetup, defaults and docker print the texts of ``answer``. PATH
has only these and a few basic commands.

``Mac.run`` starts real processes in an environment that looks like a Mac. ``Mac.perform`` runs steps in
this process in virtual time; inside ``Mac.here`` hostctl's own commands run there too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

from hostctl.local_stack import ROOT
from hostctl.machine import GIB
from hostctl.services import Installation
from hostctl.steps import Step, perform
from tests.tools.mac.launchctl import Launchctl

TOOLS = ROOT / "tests" / "tools" / "mac"
ANSWERING = ("pmset", "fdesetup", "defaults", "docker", "sw_vers", "sysctl", "csrutil")
BASICS = (
    "basename", "cat", "chmod", "cp", "echo", "env", "false", "git", "install", "ls", "make", "mkdir",
    "mv", "rm", "sh", "tail", "touch", "tr", "true", "uname",
)  # fmt: skip
HEADLESS = {  # a new Mac mini with default settings
    "pmset -g": " autorestart          0\n sleep                1\n powermode            0\n",
    "pmset -g custom": "AC Power:\n sleep                1\n autorestart          0\n",
    "fdesetup isactive": "true\n",
}
WELL = {  # a Mac whose stack starts again automatically
    "pmset -g": " autorestart          1\n sleep                0\n lowpowermode         0\n",
    "pmset -g custom": "AC Power:\n sleep                0\n autorestart          1\n",
    "fdesetup isactive": "false\n",
    "defaults read _Library_Preferences_com.apple.loginwindow autoLoginUser": "ann\n",
}


class Mac:
    """*root*: the project's folder. *levers*: variables for the stand-ins (DRAIN_S, PENDED, ...)."""

    def __init__(
        self,
        folder: Path,
        root: Path = ROOT,
        *,
        ram_gib: float = 24,
        release: str = "26.1",
        arch: str = "arm64",
        uid: int = 501,
        levers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder / "mac"
        self.home = self.folder / "Users" / "ann"
        self.daemons = self.folder / "Library" / "LaunchDaemons"
        self.place = Installation(root, self.home, uid, "ann")
        self.levers = dict(levers)
        self.now: float | None = None  # virtual time, after the first wait
        self._state = self.folder / "launchd"
        self._answers = self.folder / "answers"
        for made in (self.home, self.daemons, self._state, self._answers):
            made.mkdir(parents=True)
        self._bin = self._tools()
        facts = {"arch": arch, "release": release, "ram_bytes": ram_gib * GIB, "uid": uid}
        facts["library"] = str(self.daemons.parent)
        (self.folder / "mac.json").write_text(json.dumps(facts))

    def _tools(self) -> Path:
        folder = self.folder / "bin"
        folder.mkdir()
        links = {"launchctl": TOOLS / "launchctl.py", "sudo": TOOLS / "sudo.sh"}
        links |= dict.fromkeys(ANSWERING, TOOLS / "answers.sh")
        links |= {name: Path(found) for name in BASICS if (found := shutil.which(name))}
        for name, target in {**links, "python3": Path(sys.executable)}.items():
            (folder / name).symlink_to(target)
        return folder

    def answer(self, commands: dict[str, str]) -> None:
        """Set the output of each of *commands* ("pmset -g"); all others fail."""
        for command, text in commands.items():
            (self._answers / command.replace("/", "_")).write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": str(self._bin),
            "HOME": str(self.home),
            "LOGNAME": "ann",
            "LAUNCHD_STATE": str(self._state),
            "MAC_ANSWERS": str(self._answers),
            "SUDO_LOG": str(self.folder / "sudo.log"),
            **self.levers,
        }

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run *argv* in the project's folder, in processes that see a Mac."""
        environ = {
            **self.environ,
            "MAC": str(self.folder / "mac.json"),
            "PYTHONPATH": str(TOOLS / "python"),
            **variables,
        }
        return subprocess.run(
            argv, cwd=self.place.root, env=environ, capture_output=True, text=True, timeout=120
        )

    def hostctl(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "hostctl", *words, **variables)

    # In virtual time.

    @contextmanager
    def here(self) -> Iterator[None]:
        """Run launchctl and sudo inside this process, which is a hundred times faster."""
        real = subprocess.run

        def run(argv: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
            words, environ = list(argv), dict(how.get("env") or self.environ)
            if words[0] == "sudo":
                done = real(argv, **how) if words[1:2] != ["launchctl"] else self._sudo(words[1:])
                if done.returncode or words[1:2] != ["launchctl"]:
                    return done
                words, environ = words[1:], {**environ, "AS_ROOT": "1"}
            if words[0] != "launchctl":
                return real(argv, **how)
            tool = Launchctl(environ, lambda: self.now)
            return subprocess.CompletedProcess(argv, tool.main(words[1:]), tool.out, tool.err)

        with mock.patch("subprocess.run", run):
            yield

    def _sudo(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        with (self.folder / "sudo.log").open("a") as log:
            log.write(" ".join(words) + "\n")
        return subprocess.CompletedProcess(words, int("SUDO_REFUSES" in self.levers), "", "")

    def perform(self, steps: Iterable[Step]) -> list[str]:
        """Perform *steps*; returns the printed lines. Pauses move launchd's clock."""
        if self.now is None:
            self.wait(0)
        lines: list[str] = []
        perform(
            steps,
            cwd=self.place.root,
            environ=self.environ,
            say=lines.append,
            pause=self.wait,
            clock=lambda: self.now or 0.0,
        )
        return lines

    def wait(self, seconds: float) -> None:
        """Move the clock, also for launchctl in other processes."""
        self.now = (self.now or 0.0) + seconds
        (self._state / "clock").write_text(str(self.now))

    # The state of launchd.

    def calls(self) -> list[str]:
        """The calls of launchctl that change something."""
        file = self._state / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def sudo_calls(self) -> list[str]:
        file = self.folder / "sudo.log"
        return file.read_text().splitlines() if file.exists() else []

    def loaded(self) -> list[str]:
        """The loaded jobs, including those that are exiting."""
        jobs = sorted(p for p in (self._state / "jobs").glob("*/*"))
        return [target for target in map(_target, jobs) if self._print(target)[0] == 0]

    def running(self) -> list[str]:
        """The jobs that run and are not exiting."""
        return [t for t in self.loaded() if "\tstate = running\n" in self._print(t)[1]]

    def _print(self, target: str) -> tuple[int, str]:
        tool = Launchctl(self.environ, lambda: self.now)
        return tool.main(["print", target]), tool.out

    def killed(self) -> bool:
        """Whether launchd has killed a draining job."""
        return (self._state / "killed").exists()

    def ended(self, target: str, status: str, **facts: Any) -> None:
        """Let job *target* exit with *status*, without a restart."""
        domain, _, name = target.rpartition("/")
        file = self._state / "jobs" / domain.replace("/", "-") / name
        found = {**json.loads(file.read_text()), "running": False, "exit": status, **facts}
        file.write_text(json.dumps(found))


def _target(job: Path) -> str:
    return f"{job.parent.name.replace('-', '/')}/{job.name}"
