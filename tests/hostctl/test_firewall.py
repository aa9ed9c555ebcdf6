"""macOS' firewall, with a stand-in for ``socketfilterfw`` that stores the permitted programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostctl import firewall
from hostctl.command import output
from hostctl.firewall import Firewall, program_of, state_of

STAND_IN = """#!/bin/sh
# --getglobalstate, --getappblocked, --add, --unblockapp, --setblockall; the state is in this folder.
here=$(dirname "$0")
case $1 in
  --getglobalstate)
    case $(cat "$here/state") in
      0) echo "Firewall is disabled. (State = 0)" ;;
      1) echo "Firewall is enabled. (State = 1)" ;;
      2) echo "Firewall is blocking all non-essential incoming connections. (State = 2)" ;;
    esac ;;
  --getappblocked)
    if grep -qxF "$2" "$here/permitted" 2>/dev/null
    then echo "Incoming connection to the application is permitted"
    else echo "The application is not part of the firewall"
    fi ;;
  --add) echo "$2" >> "$here/added"; echo "Application at path ( $2 ) added to firewall" ;;
  --unblockapp) grep -xF "$2" "$here/added" >> "$here/permitted" ;;
  --setblockall) echo 1 > "$here/state" ;;
esac
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "socketfilterfw"
    file.write_text(STAND_IN)
    file.chmod(0o755)
    monkeypatch.setattr(firewall, "TOOL", str(file))
    return file


def read(python: Path) -> Firewall:
    def stdout(argv: Sequence[str]) -> str:
        return output(argv, {"PATH": "/usr/bin:/bin"})[1]

    return firewall.read(python, stdout)


def fix(found: Firewall, folder: Path) -> None:
    """Run the commands that the doctor prints, without sudo."""
    subprocess.run(["sh", "-ec", found.cure.replace("sudo ", "")], cwd=folder, check=True)


@pytest.mark.process
def test_the_doctor_s_commands_fix_the_problem(tool: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    python = tmp_path / "my python"
    python.touch()
    state.write_text("0")
    assert read(python).problem == ""
    for start in ("1", "2"):
        state.write_text(start)
        for _ in range(2):  # all blocked, then one program
            if problem := (found := read(python)).problem:
                assert "firewall" in problem
                fix(found, tmp_path)
        assert read(python).problem == ""
        assert read(python).permitted


@pytest.mark.process
def test_a_missing_tool_and_unknown_output_are_no_problem(tmp_path: Path) -> None:
    assert read(tmp_path / "python").problem == ""
    for text in ("", "Firewall is odd", "(State = x)", "State ="):
        assert state_of(text) == 0


def test_the_program_of_a_framework_s_python_is_its_application(tmp_path: Path) -> None:
    version = tmp_path / "Python.framework" / "Versions" / "3.12"
    (version / "bin").mkdir(parents=True)
    (version / "bin" / "python3.12").touch()
    link = tmp_path / "python"
    link.symlink_to(version / "bin" / "python3.12")
    assert program_of(link) == version / "bin" / "python3.12"
    (version / "Resources" / "Python.app").mkdir(parents=True)
    assert program_of(link) == version / "Resources" / "Python.app"
