"""The manager's metrics, served at ``GET /metrics``: memory, workers and their transitions.

Gauges are made from the same reports as ``/status`` (``families``, pure). ``ManagerMetrics`` counts
events: transitions when they are published, requests when they end.

Rules: all series of an alias exist from the start, because a series that appears with its first event
hides that event. An alias that is not in the settings is counted as "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from contracts.control import Caches, WorkerState
from contracts.settings import Settings
from manager.lifecycle import RUNNING, Cause
from manager.memory.system import MemoryReading
from manager.status import BudgetReport, WorkerReport
from web.metrics import NONE, OTHER, build_info, gauge
from web.request_record import RequestRecord

_LOADS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)  # seconds


class ManagerMetrics:
    """Counts events; a ``web.access_log.Observer``."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self._aliases = frozenset(settings.models)
        self._starting: dict[str, float] = {}  # when the start was decided
        self.requests = Counter(
            "vision_manager_requests",
            "Completed requests to workers. Status 499: the client left; 0: no response was sent.",
            ("alias", "status"),
            registry=registry,
        )
        self.starts = Counter(
            "vision_worker_starts", "Starts, successful or not.", ("alias",), registry=registry
        )
        self.failed_starts = Counter(
            "vision_worker_failed_starts",
            "Processes that ended, or were stopped for lack of progress, before they were ready.",
            ("alias",),
            registry=registry,
        )
        self.crashes = Counter(
            "vision_worker_crashes",
            "Processes that exited unexpectedly after they were ready.",
            ("alias",),
            registry=registry,
        )
        self.evictions = Counter(
            "vision_worker_evictions",
            "Workers that had to leave, by reason.",
            ("alias", "reason"),
            registry=registry,
        )
        self.loads = Histogram(
            "vision_worker_load_seconds",
            "Seconds from the decision to start a worker until it was ready.",
            ("alias",),
            buckets=_LOADS,
            registry=registry,
        )
        for alias in self._aliases:
            for series in (self.starts, self.failed_starts, self.crashes, self.loads):
                series.labels(alias)
            for cause in Cause:
                self.evictions.labels(alias, cause)

    def began(self) -> None:
        """Open requests are not counted here: they are the workers' leases (``families``)."""

    def ended(self, record: RequestRecord) -> None:
        alias = record.alias
        if alias == "-":  # not for a worker
            return
        if alias not in self._aliases:
            alias = OTHER if alias else NONE
        self.requests.labels(alias, str(record.status)).inc()

    def count(self, kind: str, data: Mapping[str, Any]) -> None:
        """Count an event that is published (``manager.events``)."""
        if kind != "transition":
            return
        alias, old, new = data["alias"], data["from"], data["to"]
        if new is WorkerState.STARTING:
            self.starts.labels(alias).inc()
            self._starting[alias] = self._clock()
        elif new is WorkerState.READY:
            self.loads.labels(alias).observe(self._clock() - self._starting[alias])
        elif new is WorkerState.FAILED:
            failed = self.failed_starts if old is WorkerState.STARTING else self.crashes
            failed.labels(alias).inc()
        if cause := data["cause"]:
            self.evictions.labels(alias, cause).inc()


def families(
    reports: Iterable[WorkerReport], reading: MemoryReading, budget: BudgetReport
) -> Iterator[Metric]:
    """The gauges and the counters of the workers, from one snapshot."""
    reports = list(reports)
    yield build_info("manager")
    yield from _memory(reports, reading, budget)
    state = GaugeMetricFamily(
        "vision_worker_state", "1 for the current state of a worker.", labels=("alias", "state")
    )
    for report in reports:
        for each in WorkerState:
            state.add_metric((report.alias, each), float(report.state is each))
    yield state
    for name, text, read in _GAUGES:
        family = GaugeMetricFamily(f"vision_worker_{name}", text, labels=("alias",))
        for report in reports:
            family.add_metric((report.alias,), read(report))
        yield family
    caches = GaugeMetricFamily(
        "vision_worker_cache_bytes",
        "Bytes of the prefix cache (label prompts) and of the vision cache (the other label).",
        labels=("alias", "cache"),
    )
    for report in reports:
        held = report.process.caches if report.process else Caches()
        caches.add_metric((report.alias, "prompts"), held.prompts)
        caches.add_metric((report.alias, "pictures"), held.pictures)
    yield caches
    for name, text in _WORK.items():
        counter = CounterMetricFamily(f"vision_worker_{name}", text, labels=("alias",))
        for report in reports:
            counter.add_metric((report.alias,), getattr(report.work, name))
        yield counter


def _memory(
    reports: list[WorkerReport], reading: MemoryReading, budget: BudgetReport
) -> Iterator[Metric]:
    yield gauge("vision_memory_budget_bytes", "Memory that all workers may use.", budget.budget)
    charged = sum(report.charged for report in reports)
    yield gauge("vision_memory_charged_bytes", "Memory charged to the budget.", charged)
    yield gauge("vision_system_memory_total_bytes", "The machine's memory.", reading.total)
    yield gauge(
        "vision_system_memory_available_bytes", "Memory available without swapping.", reading.available
    )
    yield gauge(
        "vision_memory_pressure",
        "Memory pressure: 0 normal, 1 warning, 2 critical.",
        budget.pressure,
    )
    yield gauge("vision_standby_processes", "Standby workers.", budget.standbys)
    yield gauge("vision_standby_memory_bytes", "Memory of standby workers.", budget.standby_memory)


_GAUGES: tuple[tuple[str, str, Callable[[WorkerReport], float]], ...] = (
    ("up", "1 while the worker is ready or draining.", lambda r: r.state in RUNNING),
    ("footprint_bytes", "Footprint of the process; 0 without one.", lambda r: r.footprint),
    ("peak_bytes", "Highest footprint of this process.", lambda r: r.peak),
    ("charged_bytes", "Memory charged for the worker.", lambda r: r.charged),
    ("declared_bytes", "memory_gb from the settings.", lambda r: r.model.memory_bytes),
    (
        "learned_peak_bytes",
        "Highest footprint of any process of the model; 0: unknown.",
        lambda r: r.learned.bytes if r.learned else 0,
    ),
    ("requests_in_flight", "Open requests.", lambda r: r.view.leases),
    ("requests_queued", "Requests that wait for a lease.", lambda r: r.queued),
    ("pinned", "1 if the worker is never evicted.", lambda r: r.model.pinned),
)

# Fields of ``contracts.control.Work``; totals over all processes since the manager started.
_WORK = {
    "tokens": "Completion tokens, including those of requests whose client left.",
    "prompt_tokens": "Prompt tokens.",
    "cached_tokens": "Prompt tokens found in the prefix cache.",
    "pictures": "Images encoded or found in the vision cache.",
    "cached_pictures": "Images found in the vision cache.",
    "steps": "Steps of image generation.",
    "step_seconds": "Seconds spent in those steps.",
}
