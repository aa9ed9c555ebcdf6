"""macOS' application firewall, and whether it lets the gateway's program accept connections.

With the firewall on, macOS asks at its screen before an unsigned program may listen to the network.
On a headless Mac nobody sees the question, and the network is cut off while this Mac itself is
served. Docker Desktop is signed and needs no answer. Rules: the outputs are parsed by their stable
words; what can't be understood counts as "nothing known", never as a fault. Never run on a Mac:
tested with a stand-in.
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
    state: int = _OFF  # of --getglobalstate: 0 off, 1 on, 2 blocks all that is not essential
    program: str = ""  # what the firewall judges when the gateway listens
    permitted: bool = False

    @property
    def problem(self) -> str:
        if self.state == _BLOCKS_ALL:
            return "macOS' firewall blocks all incoming connections: only this Mac reaches the gateway"
        if self.state == _OFF or self.permitted:
            return ""
        return (
            "macOS' firewall is on, and Python has no permission yet: macOS asks at this Mac's screen, "
            "and until then other machines may not reach the gateway"
        )

    @property
    def cure(self) -> str:
        if self.state == _BLOCKS_ALL:
            return f"sudo {TOOL} --setblockall off"
        program = shlex.quote(self.program)
        return f"sudo {TOOL} --add {program}; sudo {TOOL} --unblockapp {program}"


def read(python: Path, said: Callable[[Sequence[str]], str]) -> Firewall:
    """*said*: the output of a command, "" when it fails."""
    state = state_of(said([TOOL, "--getglobalstate"]))
    if state == _OFF:
        return Firewall()
    program = program_of(python)
    permitted = "permitted" in said([TOOL, "--getappblocked", str(program)]).lower()
    return Firewall(state, str(program), permitted)


def state_of(told: str) -> int:
    """The number in ``Firewall is enabled. (State = 1)``."""
    number = told.rpartition("State =")[2].strip(" )\n.")
    return int(number) if number.isdigit() else _OFF


def program_of(python: Path) -> Path:
    """What runs as *python*: a framework's interpreter starts the application inside the framework."""
    real = python.resolve()
    application = real.parents[1] / "Resources" / "Python.app"
    return application if application.is_dir() else real
