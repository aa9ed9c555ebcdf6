"""The figures of the manager's ``GET /metrics``: of memory, of workers and of their lives.

What there is now is made of the same reports as ``/status`` (``families``, pure). What has happened is
counted when it happens (``ManagerMetrics``): transitions as they are published, requests as they end.
Rules: all series of an alias are there from the start, since one that appears with its first event
hides it; an alias that is not in the settings is "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from contracts.control import WorkerState
from contracts.settings import Settings
from manager.lifecycle import RUNNING, Cause
from manager.memory.system import MemoryReading
from manager.status import Room, WorkerReport
from web.metrics import NONE, OTHER, build_info, gauge
from web.request_record import RequestRecord

_LOADS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)  # seconds


class ManagerMetrics:
    """A ``web.access.Observer``, and a listener to transitions."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self._aliases = frozenset(settings.models)
        self._starting: dict[str, float] = {}  # since when
        self.requests = Counter(
            "vision_manager_requests",
            "Requests to workers that are over. Status 499: the client left; 0: nothing was answered.",
            ("alias", "status"),
            registry=registry,
        )
        self.starts = Counter(
            "vision_worker_starts", "Begun, whatever became of it.", ("alias",), registry=registry
        )
        self.failed_starts = Counter(
            "vision_worker_failed_starts",
            "Processes that ended, or were given up, before they were ready.",
            ("alias",),
            registry=registry,
        )
        self.crashes = Counter(
            "vision_worker_crashes",
            "Processes that ended by themselves after they had been ready.",
            ("alias",),
            registry=registry,
        )
        self.evictions = Counter(
            "vision_worker_evictions",
            "Workers that were told to leave, and why.",
            ("alias", "reason"),
            registry=registry,
        )
        self.loads = Histogram(
            "vision_worker_load_seconds",
            "From the decision to start a worker until it was ready.",
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
        """What is open is the workers' leases (``families``)."""

    def ended(self, record: RequestRecord) -> None:
        alias = record.alias
        if alias == "-":  # not for a worker
            return
        if alias not in self._aliases:
            alias = OTHER if alias else NONE
        self.requests.labels(alias, str(record.status)).inc()

    def happened(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event as it is published (``manager.events``)."""
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


def families(reports: Iterable[WorkerReport], reading: MemoryReading, room: Room) -> Iterator[Metric]:
    """What there is now, from one look at it."""
    reports = list(reports)
    yield build_info("manager")
    yield from _memory(reports, reading, room)
    state = GaugeMetricFamily(
        "vision_worker_state", "1 for the state that a worker is in.", labels=("alias", "state")
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
        "Prompts and pictures that are kept, so as not to be computed again.",
        labels=("alias", "cache"),
    )
    for report in reports:
        caches.add_metric((report.alias, "prompts"), report.caches.prompts)
        caches.add_metric((report.alias, "pictures"), report.caches.pictures)
    yield caches
    for name, text in _WORK.items():
        counter = CounterMetricFamily(f"vision_worker_{name}", text, labels=("alias",))
        for report in reports:
            counter.add_metric((report.alias,), getattr(report.work, name))
        yield counter


def _memory(reports: list[WorkerReport], reading: MemoryReading, room: Room) -> Iterator[Metric]:
    yield gauge("vision_memory_budget_bytes", "What all workers together may use.", room.budget)
    charged = sum(report.memory for report in reports if report.charged)
    yield gauge("vision_memory_charged_bytes", "What is charged to the budget now.", charged)
    yield gauge("vision_system_memory_total_bytes", "The machine's memory.", reading.total)
    yield gauge("vision_system_memory_available_bytes", "What of it can be had.", reading.available)
    yield gauge(
        "vision_memory_pressure", "The system's: 0 normal, 1 warning, 2 critical.", room.pressure
    )
    yield gauge("vision_standby_processes", "Processes that wait for work.", room.standbys)
    yield gauge("vision_standby_memory_bytes", "What those take.", room.standby_memory)


_GAUGES: tuple[tuple[str, str, Callable[[WorkerReport], float]], ...] = (
    ("up", "Whether requests are served: ready, or draining.", lambda r: r.state in RUNNING),
    ("footprint_bytes", "The memory of its process; 0 without one.", lambda r: r.footprint),
    ("peak_bytes", "The most that this process was seen to need.", lambda r: r.peak),
    ("charged_bytes", "What it is charged now.", lambda r: r.memory if r.charged else 0),
    ("declared_bytes", "memory_gb of the settings.", lambda r: r.model.memory_bytes),
    (
        "learned_peak_bytes",
        "The most that it was ever seen to need; 0: not known.",
        lambda r: r.learned,
    ),
    ("requests_in_flight", "Requests that it has open.", lambda r: r.leases),
    ("requests_queued", "Requests that wait to be let in.", lambda r: r.queued),
    ("pinned", "Whether it is never evicted.", lambda r: r.model.pinned),
)

# By the fields of ``contracts.control.Work``; over all processes since the manager began.
_WORK = {
    "tokens": "Tokens of answers, of those that nobody waited for as well.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Those of prompts that were not computed again.",
    "pictures": "Pictures that were looked at.",
    "cached_pictures": "Those that were not computed again.",
    "steps": "Steps of drawings.",
    "step_seconds": "What those took.",
}
