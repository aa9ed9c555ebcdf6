"""``bin/vision`` works from every folder, without an installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from scripts import setup

pytestmark = pytest.mark.process


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, whose .venv uses the interpreter of the tests."""
    root = tmp_path / "a checkout"
    commands = root / ".venv" / "bin"
    commands.mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "bin" / "vision").write_bytes((ROOT / "bin" / "vision").read_bytes())
    (root / "bin" / "vision").chmod(0o755)
    for name in ("cli", "contracts", "hostctl", "web", "config.yaml"):
        (root / name).symlink_to(ROOT / name)
    (commands / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (commands / "python").chmod(0o755)
    return root


def run(command: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    argv = [str(command), "config", "check", str(ROOT / "config.demo.yaml")]
    return subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)


def test_it_runs_from_any_folder_and_through_links(checkout: Path, tmp_path: Path) -> None:
    setup.put_command(str(checkout / ".venv"))
    setup.put_command(str(checkout / ".venv"))  # again, as each `make setup` does
    link = tmp_path / "vision"
    link.symlink_to(checkout / "bin" / "vision")
    for command in (checkout / "bin" / "vision", checkout / ".venv" / "bin" / "vision", link):
        done = run(command, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("config.demo.yaml: valid, 3 models\n")


def test_nothing_is_imported_from_the_current_folder(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('wrong import')")
    done = run(checkout / "bin" / "vision", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_venv_it_says_how_to_make_one(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".venv" / "bin" / "python").unlink()
    done = run(checkout / "bin" / "vision", tmp_path)
    assert done.returncode == 2
    assert "make setup" in done.stderr
