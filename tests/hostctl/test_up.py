"""`make up` chooses the settings by memory, and prints the addresses and missing models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.settings.file import load
from hostctl import machine as machines
from hostctl import up
from hostctl.machine import GIB, config_for, foreground_environ
from testkit.stacks import demo_config
from tests.hostctl.tree import Tree

# Makes a Python process see 16 GB of memory.
SMALL = """
import os
real = os.sysconf
os.sysconf = lambda name: (16 << 30) // real("SC_PAGE_SIZE") if name == "SC_PHYS_PAGES" else real(name)
"""


def test_the_memory_chooses_the_settings_unless_a_file_is_named() -> None:
    for gib, named, expected in (
        (16, None, "./config.16gb.yaml"),
        (16, "", "./config.16gb.yaml"),
        (23.5, None, "config.yaml"),  # a machine sold with 24 GB
        (16, "./mine.yaml", "./mine.yaml"),
    ):
        assert config_for(int(gib * GIB), named) == expected


def test_commands_about_a_stack_in_the_foreground_choose_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = str(tmp_path / "config.16gb.yaml")
    monkeypatch.setattr(machines, "memory_bytes", lambda: 16 * GIB)
    assert foreground_environ(tmp_path, {"A": "1"}) == {"A": "1", "VISION_CONFIG": small}
    assert foreground_environ(tmp_path, {"VISION_CONFIG": "x"}) == {"VISION_CONFIG": "x"}
    (tmp_path / ".env").write_text("VISION_CONFIG=./config.yaml\n")
    assert foreground_environ(tmp_path, {}) == {}
    (tmp_path / ".env").write_text("no line of this kind\n")
    assert foreground_environ(tmp_path, {}) == {}
    (tmp_path / ".env").unlink()
    monkeypatch.setattr(machines, "memory_bytes", lambda: 24 * GIB)
    assert foreground_environ(tmp_path, {}) == {}


def test_the_ready_text_shows_addresses_and_missing_models(tmp_path: Path) -> None:
    changes = {"gateway.host": "0.0.0.0", "gateway.port": 8000, "models.vlm-fast.path": "x/y"}
    settings = load(demo_config(tmp_path, changes), {})
    text = up.ready(settings, "192.168.1.7", tmp_path)
    assert text.splitlines()[0] == "ready: open http://127.0.0.1:8000 in your browser"
    assert "http://192.168.1.7:8000" in text
    assert "vlm-fast  x/y" in text
    assert "`make pull`" in text
    closed = load(demo_config(tmp_path, {**changes, "gateway.host": "127.0.0.1"}), {})
    assert "192.168.1.7" not in up.ready(closed, "192.168.1.7", tmp_path)


@pytest.mark.process
def test_make_up_on_16_gb_uses_the_small_settings_with_a_note(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "a tree")
    (tree.root / "config.yaml").write_text("nonsense: 1\n")  # which would stop it
    (tree.root / "sitecustomize.py").write_text(SMALL)
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree.root), "HOME": str(tmp_path)}
    stack = subprocess.Popen(
        [sys.executable, "-m", "hostctl.up"],
        cwd=tree.root,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert stack.stdout
        lines = []
        for line in stack.stdout:
            lines.append(line)
            if "Ctrl-C stops it" in line:
                break
        text = "".join(lines)
        assert lines[0].startswith("16 GB of memory: using ./config.16gb.yaml with smaller models")
        assert f"open http://127.0.0.1:{tree.ports['gateway']} in your browser" in text
        # In another terminal, `make status` uses the same settings.
        status = [sys.executable, "-m", "hostctl", "status"]
        seen = subprocess.run(status, cwd=tree.root, env=environ, capture_output=True, text=True)
        assert "nonsense" not in seen.stdout + seen.stderr
        assert "vlm-best" in seen.stdout
    finally:
        stack.send_signal(signal.SIGINT)
        stack.communicate(timeout=60)
    assert stack.returncode == 0
    assert not tree.processes()


@pytest.mark.process
def test_a_venv_without_its_python_is_reported_with_the_fix(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "a tree")
    python = tree.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "gone" / "python3.12")  # as after a Homebrew upgrade
    for target in ("status", "doctor", "logs", "pull"):
        done = subprocess.run(
            ["make", target], cwd=tree.root, env=dict(os.environ), capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(
            ".venv is missing or broken: make install (or make setup) repairs it"
        )
