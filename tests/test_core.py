"""`make test` runs the core, and a test without its mark fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from testkit import contract_stamps
from testkit.guard import Guard
from testkit.seeds import seeds
from tests.conftest import CORE


def test_makefile_and_conftest_select_the_same_core() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert f"CORE = {CORE}" in lines
    assert '\t@$(TESTS) -m "$(CORE)" $(ARGS)' in lines


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="the mark `process` is missing")
def test_a_test_that_starts_a_process_fails_without_its_mark() -> None:
    subprocess.run(["true"], check=True)


@pytest.mark.process
def test_a_test_that_starts_a_process_passes_with_its_mark() -> None:
    subprocess.run(["true"], check=True)


def test_an_import_of_mlx_needs_its_mark() -> None:
    guard = Guard()
    guard.begin(frozenset({"process"}))
    guard.see("import", ("mlx.core", None, None, None, None))
    guard.see("subprocess.Popen", ("true", ["true"], None, None))
    assert guard.end() == ["import of mlx.core: mark it mlx"]
    guard.see("os.fork", ())  # between two tests
    guard.begin(frozenset({"mlx"}))
    guard.see("import", ("mlx.core", None, None, None, None))
    assert guard.end() == []


def test_a_nightly_run_uses_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISION_SEEDS", raising=False)
    assert list(seeds(2, 5)) == [0, 1]
    monkeypatch.setenv("VISION_SEEDS", "all")
    assert list(seeds(2, 5)) == [0, 1, 2, 3, 4]


def test_library_contracts_run_again_when_a_lock_changes(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements" / "host.lock"
    for file in (lock, tmp_path / "test_library_contracts.py"):
        file.write_text("a")
    before = contract_stamps.hash_of("test_library_contracts.py", tmp_path)
    assert contract_stamps.hash_of("test_library_contracts.py", tmp_path) == before
    lock.write_text("b")
    assert contract_stamps.hash_of("test_library_contracts.py", tmp_path) != before
