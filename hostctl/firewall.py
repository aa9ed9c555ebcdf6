"""Whether macOS' application firewall admits connections to the gateway.

With the firewall on, macOS shows a dialog before an unsigned program may accept connections. On a
headless Mac nobody sees it, and only this Mac itself reaches the gateway. Docker Desktop is signed and
needs no permission. Rules: parse only stable words of the tool's output; unknown output is not a
problem. Tested with a stand-in, never on a Mac.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOOL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
_OFF, _BLOCKS_ALL = 0, 2


@dataclass(frozen=True)
class Firewall:
    state: int = _OFF  # of --getglobalstate: 0 off, 1 on, 2 blocks all but essential services
    program: str = ""  # the program that needs the permission
    permitted: bool = False

    @property
    def problem(self) -> str:
        if self.state == _BLOCKS_ALL:
            return "macOS' firewall blocks all connections: only this Mac can reach the gateway"
        if self.state == _OFF or self.permitted:
            return ""
        return (
            "macOS' firewall is on, and Python is not permitted yet: other machines may not reach the "
            "gateway until you allow it at this Mac's screen"
        )

    @property
    def cure(self) -> str:
        if self.state == _BLOCKS_ALL:
            return f"sudo {TOOL} --setblockall off"
        program = shlex.quote(self.program)
        return f"sudo {TOOL} --add {program}; sudo {TOOL} --unblockapp {program}"


def read(python: Path, stdout: Callable[[Sequence[str]], str]) -> Firewall:
    """*stdout*: runs a command and returns its output, "" if it fails."""
    state = state_of(stdout([TOOL, "--getglobalstate"]))
    if state == _OFF:
        return Firewall()
    program = program_of(python)
    permitted = "permitted" in stdout([TOOL, "--getappblocked", str(program)]).lower()
    return Firewall(state, str(program), permitted)


def state_of(text: str) -> int:
    """The number in ``Firewall is enabled. (State = 1)``."""
    number = text.rpartition("State =")[2].strip(" )\n.")
    return int(number) if number.isdigit() else _OFF


def program_of(python: Path) -> Path:
    """The program that runs as *python*: a framework's interpreter starts its ``Python.app``."""
    real = python.resolve()
    application = real.parents[1] / "Resources" / "Python.app"
    return application if application.is_dir() else real
