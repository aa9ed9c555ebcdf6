"""What the ``GET /metrics`` of both tiers share: the text format, and labels from a fixed set.

Rules: a label's values are known at startup; a client's text never becomes one. Each app has its own
registry. Metrics of current state are built for each scrape (``exposition``) on the event loop; the
text is generated in a thread, because it is long.
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

# A switch for the whole process: drops the ``_created`` series, one more for each series.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"  # an unknown path or name
NONE = "none"  # the request names no model, or was refused before that


class RouteNames:
    """Maps a path to its route template, from a set known at startup."""

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
    info = InfoMetricFamily("vision_build", "Running version of this software and of Python.")
    info.add_metric([], {"tier": tier, "version": VERSION, "python": platform.python_version()})
    return info


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class _ScrapeRegistry(CollectorRegistry):
    """The counters of *registry*, and *families* that were built for this scrape."""

    def __init__(self, registry: CollectorRegistry, families: list[Metric]) -> None:
        super().__init__()
        self._counted = registry
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        yield from self._families


async def exposition(registry: CollectorRegistry, families: Iterable[Metric]) -> Response:
    """The response to a scrape."""
    scraped = _ScrapeRegistry(registry, list(families))
    text = await asyncio.to_thread(generate_latest, scraped)
    return Response(
        text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4, "cache-control": "no-store"}
    )
