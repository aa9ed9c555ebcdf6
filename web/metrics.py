"""What both tiers' ``GET /metrics`` are made of: the text format, and labels that can't grow.

Rules: a label is one of a set that is known at the start; what a client writes never becomes one. Each
app has a registry of its own. Families that exist as state elsewhere are made anew for each scrape
(``exposition``), on the event loop; the text is made in a thread, as it is long.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from starlette.responses import Response

from contracts.version import VERSION

# The library's own switch, for the whole process: one more series for each that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"  # a path or a name that is not ours
NONE = "none"  # no model was asked, or the request did not get as far


class RouteNames:
    """Which route a path belongs to: by its template, of a set that is known at the start."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._begins: list[tuple[str, str]] = []
        for template in templates:
            fixed, brace, _ = template.partition("{")
            if brace:
                self._begins.append((fixed, template.replace(":path}", "}")))
            else:
                self._exact[template] = template
        self._begins.sort(key=lambda pair: -len(pair[0]))

    def __repr__(self) -> str:
        return f"<RouteNames {sorted([*self._exact, *(template for _, template in self._begins)])}>"

    def of(self, path: str) -> str:
        found = self._exact.get(path)
        if found is not None:
            return found
        return next((template for fixed, template in self._begins if path.startswith(fixed)), OTHER)


def build_info(tier: str) -> Metric:
    info = InfoMetricFamily("vision_build", "What runs: the version of this software, and of Python.")
    info.add_metric([], {"tier": tier, "version": VERSION, "python": platform.python_version()})
    return info


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class _Whole(CollectorRegistry):
    """What *registry* counted, and *families* that were made for this scrape."""

    def __init__(self, registry: CollectorRegistry, families: list[Metric]) -> None:
        super().__init__()
        self._counted = registry
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        yield from self._families


async def exposition(registry: CollectorRegistry, families: Iterable[Metric]) -> Response:
    """The answer to a scrape."""
    whole = _Whole(registry, list(families))
    text = await asyncio.to_thread(generate_latest, whole)
    return Response(
        text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4, "cache-control": "no-store"}
    )
