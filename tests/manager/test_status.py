"""/status, the pure part: the dashboard's names, and numbers that are always numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.control import Drawing
from contracts.control import WorkerState as S
from contracts.settings import Settings
from contracts.settings.base import GIB
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading, read
from manager.status import Room, WorkerReport, manager_status

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
READY = WorkerReport(
    alias="a",
    model=SETTINGS.models["a"],
    state=S.READY,
    memory=int(4.5 * GIB),
    charged=True,
    pid=77,
    port=8001,
    request_count=3,
    launched_at=40.0,
    last_used=95.5,
)


NO_DOWNLOAD = {
    "done_bytes": 0,
    "total_bytes": 0,
    "bytes_per_second": 0.0,
    "eta_seconds": 0.0,
    "verified_bytes": 0,
}
NO_DRAWING = {"kind": "", "step": 0, "steps": 0, "picture": 0, "pictures": 0, "eta_seconds": 0.0}
ROOM = Room(10 * GIB, 1, 1, GIB // 2, Pressure.WARNING, "a rule")


def status(*reports: WorkerReport) -> dict[str, Any]:
    return manager_status(reports, READING, SETTINGS, room=ROOM, started_at=10.0, now=100.0).model_dump(
        mode="json"
    )


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
    worker = status(replace(READY, leases=2))["workers"]["a"]
    assert (worker["idle_seconds"], worker["active_requests"]) == (0.0, 2)


@pytest.mark.parametrize("state", list(S))
def test_only_workers_that_serve_are_among_the_workers_and_all_are_among_the_models(state: S) -> None:
    answer = status(replace(READY, state=state))
    assert ("a" in answer["workers"]) == (state in (S.READY, S.DRAINING))
    assert answer["models"]["a"]["status"] == state


def test_a_model_tells_what_it_waits_for_and_why_it_failed() -> None:
    failed = replace(READY, state=S.FAILED, retry_at=107.0, last_error="no weights", queued=2)
    failed = replace(failed, idle_timeout_s=60.0)
    measured = replace(failed, learned=5 * GIB, learned_age_s=3600, footprint=2 * GIB, peak=3 * GIB)
    assert status(measured)["models"]["a"] == {
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
        "drawing": NO_DRAWING,
        "queued": 2,
        "last_error": "no weights",
        "retry_in_seconds": 7.0,
        "idle_timeout_seconds": 60.0,
        "pinned": True,
    }


def test_a_model_tells_what_it_draws() -> None:
    drawing = Drawing(kind="edit", step=2, steps=8, picture=1, pictures=3, eta_seconds=40.5)
    told = status(replace(READY, drawing=drawing))["models"]["a"]["drawing"]
    assert told == drawing.model_dump()


def test_the_memory_is_the_system_s_and_the_budget_s() -> None:
    reserved = WorkerReport("b", SETTINGS.models["b"], S.STARTING, memory=10 * GIB)
    assert status(replace(READY, footprint=3 * GIB), reserved)["memory"] == {
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


def test_the_rest_of_the_answer() -> None:
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
    alias=st.sampled_from("ab"),
    model=st.sampled_from(list(SETTINGS.models.values())),
    state=st.sampled_from(list(S)),
    memory=st.integers(0, 1 << 40),
    charged=st.booleans(),
    leases=st.integers(0, 9),
    retry_at=st.floats(0, 1000),
)


@given(st.lists(reports, max_size=2))
def test_no_number_is_ever_null(drawn: list[WorkerReport]) -> None:
    def nulls(value: Any) -> bool:
        if isinstance(value, dict):
            return any(nulls(item) for item in value.values())
        return value is None

    assert not nulls(status(*drawn))


def test_the_system_s_memory_can_be_read() -> None:
    reading = read()
    assert 0 < reading.available <= reading.total
    assert 0 <= reading.used_percent <= 100
    assert reading.used + reading.available == reading.total
