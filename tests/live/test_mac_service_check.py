"""``scripts/mac_service_check.sh``, which is for a Mac, runs here against a real ``systemd --user``.

Its use of launchd can be tested only on a Mac. These tests show that the script's own steps are right,
also in dash, and that a broken stack does not pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from testkit.needs import lacking
from tests.hostctl.session import Session, require_systemd
from tests.hostctl.tree import Tree

pytestmark = pytest.mark.process

CHECK = "CHECK_CONFIG=./config.yaml CHECK_REPORT='{report}' sh scripts/mac_service_check.sh"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    require_systemd()
    if not (shutil.which("lsof") or shutil.which("ss")) or not shutil.which("curl"):
        lacking("curl, and lsof or ss")
    with Session(tmp_path / "home") as found:
        yield found


@pytest.mark.mlx
def test_every_step_of_the_check_passes_on_a_healthy_stack(session: Session, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "vision insight")
    status, text = session.run(CHECK.format(report=tmp_path / "report"), tree.root)
    assert status == 0, text
    lines = text.splitlines()
    assert "FAIL" not in text
    assert sum(line.startswith("PASS") for line in lines) >= 35
    assert tree.processes() == []
    assert not (tree.root / ".env").exists()


def test_a_broken_stack_fails_the_check_which_names_the_files_to_read(
    session: Session, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "vision insight")
    app = tree.root / "manager" / "routes.py"
    app.write_text('raise SystemExit("a manager that ends at once")\n')
    status, text = session.run(CHECK.format(report=tmp_path / "report"), tree.root)
    assert status == 1, text
    assert "FAIL  install" in text
    assert "look at: " in text
    assert "the other steps are left out" in text
    found = (tmp_path / "report" / "failure-1.txt").read_text()
    assert "vision-insight-manager" in found
    assert tree.processes() == []
    assert not (tree.root / ".env").exists()


def test_it_does_not_touch_a_checkout_with_settings(session: Session, tmp_path: Path) -> None:
    tree = tmp_path / "checkout"
    (tree / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "mac_service_check.sh", tree / "scripts")
    (tree / ".env").write_text("A=1\n")
    status, text = session.run("sh scripts/mac_service_check.sh", tree)
    assert status == 2
    assert "there is a .env here" in text
    assert {p.name for p in tree.iterdir()} == {"scripts", ".env"}
