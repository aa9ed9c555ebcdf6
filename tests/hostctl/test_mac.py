"""hostctl in real processes, in an environment that looks like a Mac."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hostctl.host import Host
from hostctl.launchd import label
from tests.hostctl.darwin import HEADLESS, WELL, Mac
from tests.hostctl.tree import Tree

pytestmark = pytest.mark.process
# Nothing serves here, so waiting is skipped. Everything else runs.
PYTHON = """#!/bin/sh
case "$*" in *"hostctl wait"* | *"hostctl check"*) exit 0 ;; esac
exec "${0%/*}/python-itself" "$@"
"""


def mac_with(folder: Path, **levers: str) -> Mac:
    tree = Tree(folder / "vision insight")
    python = tree.root / ".venv" / "bin" / "python"
    python.rename(python.with_name("python-itself"))
    python.write_text(PYTHON)
    python.chmod(0o755)
    mac = Mac(folder, tree.root, levers=levers)
    mac.answer(HEADLESS)
    return mac


def must(mac: Mac, *words: str, **variables: str) -> str:
    done = mac.hostctl(*words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_agents_and_then_daemons_are_installed_used_and_removed(tmp_path: Path) -> None:
    mac = mac_with(tmp_path, DRAIN_S="0.3")
    domain = "gui/501"
    text = must(mac, "install", NATIVE="1")
    both = [f"{domain}/{label('gateway')}", f"{domain}/{label('manager')}"]
    assert mac.running() == both
    # The advice for a new headless Mac.
    assert "when you log in" in text
    for cure in ("make install BOOT=1", "sudo pmset -a sleep 0", "sudo pmset -a autorestart 1"):
        assert cure in text
    must(mac, "stop")
    assert mac.running() == both[1:]
    must(mac, "start")
    assert mac.running() == both
    assert mac.sudo_calls() == []

    mac.answer(WELL)
    text = must(mac, "install", BOOT="1")
    assert [target.partition("/")[0] for target in mac.running()] == ["system", "system"]
    assert "after a reboot" in text
    assert "pmset" not in text
    mac.ended(f"system/{label('manager')}", "0")
    doctor = mac.hostctl("doctor").stdout
    assert "ok    reboot: no problems" in doctor
    assert "if its settings are invalid" in doctor
    assert "(service, starts at boot)" in mac.hostctl("status").stdout
    must(mac, "uninstall")
    assert mac.loaded() == []
    assert not (mac.place.root / ".venv").exists()
    assert not mac.killed()


def test_a_dry_run_prints_every_command_and_changes_nothing(tmp_path: Path) -> None:
    mac = mac_with(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    agents = must(mac, "install", NATIVE="1", DRY_RUN="1")
    assert f"until `launchctl print gui/501/{label('manager')}` fails" in agents
    assert "sudo" not in agents
    daemons = must(mac, "install", BOOT="1", DRY_RUN="1")
    for words in (
        "sudo -v",
        "hostctl unit manager --write --boot",
        "sudo launchctl bootstrap system",
        f"sudo launchctl kickstart system/{label('gateway')}",
    ):
        assert words in daemons
    assert "docker compose up" not in daemons
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before


def test_impossible_options_and_root_are_refused_with_the_fix(tmp_path: Path) -> None:
    mac = mac_with(tmp_path)
    done = mac.hostctl("install", BOOT="1", NATIVE="0")
    assert done.returncode == 1
    assert "omit NATIVE=0" in done.stderr
    root = Mac(tmp_path / "root", mac.place.root, uid=0)
    for verb in ("install", "uninstall"):
        done = root.hostctl(verb, DRY_RUN="1")
        assert done.returncode == 1
        assert "run it without sudo" in done.stderr
    assert mac.calls() == root.calls() == []


def test_on_linux_boot_is_ignored_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    if sys.platform != "linux":
        pytest.skip("launchd is here")
    host = Host({**os.environ, "BOOT": "1"})
    assert host.services_to_install() is host.services
    assert "systemd already starts services at boot" in capsys.readouterr().out
