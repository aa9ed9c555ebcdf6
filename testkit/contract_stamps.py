"""Skips the tests of library contracts if neither the locks nor the tested code have changed.

The tests assert on names and source of libraries that the locks pin, so the same files give the same
result. One stamp per test file stores the hash of the inputs that passed. ``CI=true``, or a file named
on the command line, always runs them.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAMPS = ROOT / ".cache" / "contracts"
NAME = "test_library_contracts.py"
_passed: dict[str, bool] = {}  # file -> did all of its tests pass so far?


@cache
def _hash_of(file: str) -> str:
    return hash_of(file, ROOT)


def hash_of(file: str, root: Path) -> str:
    """The hash of everything that decides the result of the tests in *file*."""
    made = hashlib.sha256()
    # The tests compare the libraries with our adapters and with testkit's checkpoints.
    patterns = (
        "requirements/*.lock",
        "workers/**/*.py",
        "contracts/**/*.py",
        "testkit/random_models/*.py",
    )
    inputs = [path for pattern in patterns for path in root.glob(pattern)]
    for path in sorted((*inputs, root / file)):
        made.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return made.hexdigest()


def _stamp(file: str) -> Path:
    return STAMPS / f"{file.replace('/', '-')}.sha256"


def _is_contract(nodeid: str) -> str:
    """The test's file if it tests library contracts, else an empty string."""
    file = nodeid.partition("::")[0]
    return file if file.endswith(f"/{NAME}") else ""


def deselect_unchanged(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CI") == "true" or any(NAME in argument for argument in config.args):
        return
    unchanged = []
    for item in items:
        file = _is_contract(item.nodeid)
        if file and _stamp(file).exists() and _stamp(file).read_text() == _hash_of(file):
            unchanged.append(item)
    if unchanged:
        config.hook.pytest_deselected(items=unchanged)
        items[:] = [item for item in items if item not in set(unchanged)]


def note(report: pytest.TestReport) -> None:
    file = _is_contract(report.nodeid)
    if file:
        # A skipped test proves nothing.
        _passed[file] = _passed.get(file, True) and report.passed


def keep(config: pytest.Config) -> None:
    """Write the stamps of the files that ran completely and passed."""
    if config.option.keyword or config.option.markexpr or any("::" in a for a in config.args):
        return
    for file in [file for file, passed in _passed.items() if passed]:
        STAMPS.mkdir(parents=True, exist_ok=True)
        _stamp(file).write_text(_hash_of(file))
