"""The manager's metrics: gauges, counts of events, and reasons for unloading."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from contracts.control import Caches, Phase, Work, WorkerHealth, WorkerState
from contracts.settings.base import GIB
from contracts.settings.file import load
from manager.lifecycle import Cause
from manager.memory.peaks import Peak
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading
from manager.metrics import ManagerMetrics, families
from manager.planner import WorkerView
from manager.status import BudgetReport, WorkerReport
from manager.worker_facts import Process
from testkit.stacks import demo_config
from tests.gateway.test_metrics import Figures, parsed, value
from tests.manager.conftest import Bench, Manager
from web.request_record import RequestRecord


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(tmp_path: Path, clock: Clock) -> ManagerMetrics:
    return ManagerMetrics(load(demo_config(tmp_path), {}), clock=clock)


def moved(metrics: ManagerMetrics, *states: WorkerState, cause: str = "") -> None:
    """*cause*: of the first transition."""
    for old, new in pairwise(states):
        data = {"alias": "vlm-best", "from": old, "to": new, "reason": "free text", "cause": cause}
        metrics.count("transition", data)
        cause = ""


def counted(metrics: ManagerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"alias": "vlm-best", **labels})


S = WorkerState


def test_a_load_is_timed_from_the_decision_to_ready(metrics: ManagerMetrics, clock: Clock) -> None:
    moved(metrics, S.STOPPED, S.STARTING)
    clock.now = 2.5
    moved(metrics, S.STARTING, S.READY)
    assert counted(metrics, "vision_worker_starts_total") == 1
    assert counted(metrics, "vision_worker_load_seconds_sum") == 2.5
    assert counted(metrics, "vision_worker_failed_starts_total") == 0


def test_failed_starts_and_crashes_are_counted_separately(metrics: ManagerMetrics) -> None:
    moved(metrics, S.STOPPED, S.STARTING, S.FAILED)
    assert counted(metrics, "vision_worker_failed_starts_total") == 1
    assert counted(metrics, "vision_worker_crashes_total") == 0
    moved(metrics, S.FAILED, S.STARTING, S.READY, S.FAILED)
    moved(metrics, S.FAILED, S.STARTING, S.READY, S.DRAINING, S.FAILED)
    assert counted(metrics, "vision_worker_failed_starts_total") == 1
    assert counted(metrics, "vision_worker_crashes_total") == 2


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_has_a_series_from_the_start_and_is_counted_once(
    metrics: ManagerMetrics, cause: Cause
) -> None:
    assert counted(metrics, "vision_worker_evictions_total", reason=cause) == 0
    moved(metrics, S.READY, S.DRAINING, S.STOPPING, S.STOPPED, cause=cause)
    assert counted(metrics, "vision_worker_evictions_total", reason=cause) == 1


def test_an_unknown_alias_never_becomes_a_label(metrics: ManagerMetrics) -> None:
    for alias, status in (("vlm-best", 200), ("x1", 404), ("x2", 404), ("-", 200)):
        metrics.ended(RequestRecord(0.0, alias=alias, status=status))
    labels = [
        sample.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "vision_manager_requests_total"
    ]
    assert sorted(label["alias"] for label in labels) == ["other", "vlm-best"]


def test_gauges_are_in_bytes_per_alias(tmp_path: Path) -> None:
    model = load(demo_config(tmp_path), {}).models["vlm-best"]
    health = WorkerHealth(alias="vlm-best", phase=Phase.READY, pid=1, caches=Caches(prompts=11))
    report = WorkerReport(
        view=WorkerView("vlm-best", S.READY, 3 * GIB, leases=2),
        model=model,
        process=Process(health=health, footprint=GIB),
        learned=Peak(2 * GIB, learned_at=0.0),
        queued=1,
        work=Work(tokens=7, step_seconds=1.5),
    )
    reading = MemoryReading(total=16 * GIB, available=4 * GIB)
    budget = BudgetReport(6 * GIB, pressure=Pressure.WARNING)
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families([report], reading, budget)
        for sample in family.samples
    }
    alias = {"alias": "vlm-best"}
    assert value(found, "vision_memory_budget_bytes") == 6 * GIB
    assert value(found, "vision_memory_charged_bytes") == 3 * GIB
    assert value(found, "vision_system_memory_available_bytes") == 4 * GIB
    assert value(found, "vision_memory_pressure") == 1
    assert value(found, "vision_worker_footprint_bytes", **alias) == GIB
    assert value(found, "vision_worker_learned_peak_bytes", **alias) == 2 * GIB
    assert value(found, "vision_worker_requests_in_flight", **alias) == 2
    assert value(found, "vision_worker_requests_queued", **alias) == 1
    assert value(found, "vision_worker_tokens_total", **alias) == 7
    assert value(found, "vision_worker_step_seconds_total", **alias) == 1.5
    assert value(found, "vision_worker_cache_bytes", **alias, cache="prompts") == 11
    states = {s: value(found, "vision_worker_state", **alias, state=s) for s in S}
    assert states == {s: float(s is S.READY) for s in S}


def test_work_totals_grow_across_processes() -> None:
    total, before = Work(), Work()
    for now in (Work(tokens=3), Work(tokens=5, steps=1)):  # one process
        total, before = total.plus(now, before), now
    total = total.plus(Work(tokens=2), Work())  # the next
    assert total == Work(tokens=7, steps=1)


def figures(manager: Manager) -> Figures:
    answer = manager.http.get("/metrics")
    assert answer.status_code == 200
    return parsed(answer.text)


@pytest.mark.process
def test_a_load_a_request_and_a_stop_are_counted(bench: Bench) -> None:
    with bench.manager() as manager:
        assert value(figures(manager), "vision_worker_up", alias="a") == 0
        assert manager.ask().status_code == 200
        found = figures(manager)
        assert value(found, "vision_worker_up", alias="a") == 1
        assert value(found, "vision_worker_starts_total", alias="a") == 1
        assert value(found, "vision_worker_load_seconds_count", alias="a") == 1
        assert value(found, "vision_manager_requests_total", alias="a", status="200") == 1
        manager.post("/stop/a")
        found = figures(manager)
        assert value(found, "vision_worker_evictions_total", alias="a", reason="request") == 1
        assert value(found, "vision_worker_crashes_total", alias="a") == 0


@pytest.mark.process
def test_an_evicted_worker_has_the_cause_room(bench: Bench) -> None:
    with bench.manager({"a": bench.model(memory_gb=5), "b": bench.model(memory_gb=5)}) as manager:
        assert manager.ask("a").status_code == 200
        assert manager.ask("b").status_code == 200
        found = figures(manager)
        assert value(found, "vision_worker_evictions_total", alias="a", reason="room") == 1
        assert value(found, "vision_worker_starts_total", alias="b") == 1


@pytest.mark.process
def test_metrics_need_the_token_like_every_other_route(bench: Bench) -> None:
    with bench.manager(manager={"token": "t0ken"}) as manager:
        assert manager.http.get("/metrics").status_code == 401
        keyed = manager.http.get("/metrics", headers={"authorization": "Bearer t0ken"})
        assert keyed.status_code == 200
