"""For all tests: hypothesis, compute threads, the selection of `make test`, and the shared stack.

Marks decide which tests run: unmarked tests are the core; ``process`` and ``mlx`` tests need real
processes and models; ``smoke`` marks the one of these that `make test` runs too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from testkit import contract_stamps
from testkit.guard import Guard
from workers.backend import blas

if TYPE_CHECKING:
    from hostctl.local_stack import LocalStack

# The time per example depends on the load of the machine, not on the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")

# BLAS threads, here and in child processes. The demo models are small, so a second thread only
# busy-waits, and the tests use all cores anyway.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
blas.enable()  # 6 ms; before any test imports MLX, which then computes five times as fast

CORE = "smoke or not (process or mlx)"  # as in the Makefile
NOT_RUN = "not run: {} tests of real processes and models (make check); live, faults, clients (.ci/run)"
# Modules that are marked process or mlx as a whole; `make test` does not import them.
_MARKED = re.compile(r"^pytestmark = .*mark\.(process|mlx)\b", re.MULTILINE)
_SMOKE = re.compile(r"mark\.smoke\b")
_TEST = re.compile(r"^ *(async )?def test_", re.MULTILINE)

_guard = Guard()
_not_run = 0


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    global _not_run
    if config.option.markexpr != CORE or not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    text = collection_path.read_text(encoding="utf-8")
    if _MARKED.search(text) and not _SMOKE.search(text):
        _not_run += len(_TEST.findall(text))
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One xdist process runs all tests of the shared stack; see ``pytest_xdist_make_scheduler``."""
    contract_stamps.deselect_unchanged(config, items)
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))


def pytest_deselected(items: list[pytest.Item]) -> None:
    global _not_run
    _not_run += len({item.nodeid.partition("[")[0] for item in items})


# --- xdist ----------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)  # absent with -p no:xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadgroup: a file runs in one process, except for its tests in a group."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

    class ByGroupAndFile(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            return "stack" if nodeid.endswith("@stack") else file

    return ByGroupAndFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = _not_run
    else:
        contract_stamps.keep(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    global _not_run
    _not_run = max(_not_run, getattr(node, "workeroutput", {}).get("not_run", 0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    contract_stamps.note(report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.option.markexpr == CORE:
        terminalreporter.write_line(NOT_RUN.format(_not_run))


# --- missing marks --------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    _guard.install()  # not earlier: its audit hook would slow the collection down by a tenth


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    _guard.begin(frozenset(mark.name for mark in item.iter_markers()))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    try:
        result = yield
    finally:
        found = _guard.end()
    if found:
        pytest.fail("a mark is missing: " + "; ".join(found), pytrace=False)
    return result


# --- the shared stack -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One stack of real processes and demo models, shared by the tests that leave it serving.

    Starting a stack with its models costs ten seconds of CPU. Any of its models may be loaded or not.
    """
    from testkit.stacks import DEMO_CHANGES, running  # takes half a second

    with running(tmp_path_factory.mktemp("stack"), DEMO_CHANGES) as stack:
        yield stack


@pytest.fixture(scope="session")
def http(stack: LocalStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        yield client
