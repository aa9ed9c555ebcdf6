"""/status, the pure part: the dashboard's names, and numbers that are never null."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.control import ImageProgress, Phase, WorkerHealth
from contracts.control import WorkerState as S
from contracts.settings import Settings
from contracts.settings.base import GIB
from manager.launcher.process import Address, Handle
from manager.memory.peaks import Peak
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading, read
from manager.planner import WorkerView
from manager.status import BudgetReport, WorkerReport, manager_status
from manager.worker_facts import Process

DATA: dict[str, Any] = {
    "defaults": {"chat": "a", "analyze": "a", "generate": "b", "edit": "b"},
    "manager": {"idle_timeout_s": 120.0},
    "memory": {"safety_margin_gb": 2.0},
    "models": {
        "a": {"kind": "vlm", "path": "org/a", "port": 8001, "memory_gb": 4.5, "pinned": True},
        "b": {
            "kind": "image",
            "path": "org/b",
            "port": 8002,
            "memory_gb": 10,
            "family": "flux1-schnell",
        },
    },
}
SETTINGS = Settings.model_validate(DATA)
READING = MemoryReading(total=16 * GIB, available=4 * GIB)


class Here:
    """The parts of a ``Handle`` that are used."""

    pid = 77
    address = Address("127.0.0.1", 8001)


PROCESS = Process(launched_at=40.0, handle=cast("Handle", Here()))
READY = WorkerReport(
    view=WorkerView("a", S.READY, int(4.5 * GIB), last_used=95.5, pinned=True),
    model=SETTINGS.models["a"],
    process=PROCESS,
    request_count=3,
)


def viewed(report: WorkerReport, **changes: Any) -> WorkerReport:
    return replace(report, view=replace(report.view, **changes))


NO_DOWNLOAD = {
    "done_bytes": 0,
    "total_bytes": 0,
    "bytes_per_second": 0.0,
    "eta_seconds": 0.0,
    "verified_bytes": 0,
}
NO_IMAGE_PROGRESS = {"kind": "", "step": 0, "steps": 0, "picture": 0, "pictures": 0, "eta_seconds": 0.0}
BUDGET = BudgetReport(10 * GIB, 1, 1, GIB // 2, Pressure.WARNING, "a rule")


def status(*reports: WorkerReport) -> dict[str, Any]:
    found = manager_status(
        reports, READING, SETTINGS, budget=BUDGET, started_at=10.0, now=100.0, wall_now=4600.0
    )
    return found.model_dump(mode="json")


def test_a_ready_worker_has_the_dashboard_s_fields() -> None:
    assert status(READY)["workers"] == {
        "a": {
            "port": 8001,
            "pid": 77,
            "state": "ready",
            "memory_gb": 4.5,
            "uptime_seconds": 60.0,
            "idle_seconds": 4.5,
            "active_requests": 0,
            "request_count": 3,
            "model_path": "org/a",
            "model_type": "vlm",
        }
    }


def test_a_busy_worker_is_not_idle() -> None:
    worker = status(viewed(READY, leases=2))["workers"]["a"]
    assert (worker["idle_seconds"], worker["active_requests"]) == (0.0, 2)


@pytest.mark.parametrize("state", list(S))
def test_workers_lists_only_workers_that_serve_and_models_lists_all(state: S) -> None:
    answer = status(viewed(READY, state=state))
    assert ("a" in answer["workers"]) == (state in (S.READY, S.DRAINING))
    assert answer["models"]["a"]["status"] == state


def test_a_model_shows_what_it_waits_for_and_why_it_failed() -> None:
    failed = viewed(READY, state=S.FAILED, retry_at=107.0, idle_timeout_s=60.0)
    process = Process(footprint=2 * GIB, peak=3 * GIB)
    learned = Peak(5 * GIB, learned_at=1000.0)
    failed = replace(failed, process=process, learned=learned, last_error="no weights", queued=2)
    assert status(failed)["models"]["a"] == {
        "path": "org/a",
        "kind": "vlm",
        "port": 8001,
        "status": "failed",
        "memory_gb": 4.5,
        "declared_gb": 4.5,
        "learned_gb": 5.0,
        "learned_age_seconds": 3600.0,
        "measured_gb": 2.0,
        "peak_gb": 3.0,
        "phase": "",
        "download": NO_DOWNLOAD,
        "revision": "",
        "drawing": NO_IMAGE_PROGRESS,
        "queued": 2,
        "last_error": "no weights",
        "retry_in_seconds": 7.0,
        "idle_timeout_seconds": 60.0,
        "pinned": True,
    }


def test_a_model_shows_the_progress_of_its_image() -> None:
    drawing = ImageProgress(kind="edit", step=2, steps=8, picture=1, pictures=3, eta_seconds=40.5)
    health = WorkerHealth(alias="a", phase=Phase.READY, pid=77, drawing=drawing)
    found = status(replace(READY, process=replace(PROCESS, health=health)))
    assert found["models"]["a"]["drawing"] == drawing.model_dump()


def test_memory_has_the_system_s_and_the_budget_s_figures() -> None:
    reserved = WorkerReport(WorkerView("b", S.STARTING, 10 * GIB), SETTINGS.models["b"])
    measured = replace(READY, process=replace(PROCESS, footprint=3 * GIB))
    assert status(measured, reserved)["memory"] == {
        "total_gb": 16.0,
        "available_gb": 4.0,
        "used_gb": 12.0,
        "used_percent": 75.0,
        "usage_percent": 75.0,
        "budget_gb": 10.0,
        "budget_reason": "a rule",
        "models_loaded_gb": 4.5,
        "models_measured_gb": 3.0,
        "standby_gb": 0.5,
        "pressure": "warning",
    }


def test_the_remaining_fields_of_the_status() -> None:
    answer = status()
    parts = {"status", "uptime_seconds", "workers", "models", "memory", "standby", "config"}
    assert set(answer) == parts
    assert answer["standby"] == {"count": 1, "ready": 1}
    assert (answer["status"], answer["uptime_seconds"]) == ("ok", 90.0)
    assert answer["config"] == {
        "idle_timeout_seconds": 120.0,
        "max_requests_before_restart": 0,
        "safety_margin_gb": 2.0,
    }


reports = st.builds(
    WorkerReport,
    view=st.builds(
        WorkerView,
        alias=st.sampled_from("ab"),
        state=st.sampled_from(list(S)),
        charge=st.integers(0, 1 << 40),
        leases=st.integers(0, 9),
        retry_at=st.floats(0, 1000),
    ),
    model=st.sampled_from(list(SETTINGS.models.values())),
    process=st.sampled_from([None, PROCESS]),
)


@given(st.lists(reports, max_size=2))
def test_no_number_is_ever_null(generated: list[WorkerReport]) -> None:
    def nulls(value: Any) -> bool:
        if isinstance(value, dict):
            return any(nulls(item) for item in value.values())
        return value is None

    assert not nulls(status(*generated))


def test_the_system_s_memory_can_be_read() -> None:
    reading = read()
    assert 0 < reading.available <= reading.total
    assert 0 <= reading.used_percent <= 100
    assert reading.used + reading.available == reading.total
