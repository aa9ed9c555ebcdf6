"""Metrics of finished requests, for the gateway's ``GET /metrics``.

``web.access_log`` passes the record of each request, once, when it is over. Rules: an alias is one of
the settings, a route one of ours; anything else is "other" (``web.metrics``). Times include successful
responses only: a refusal takes no time and would make a slow model look fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

from contracts.settings import Settings
from contracts.settings.models import VlmSettings
from gateway.images_out.store import ImageStore
from web.metrics import NONE, OTHER, RouteNames, build_info, gauge
from web.request_record import RequestRecord

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
_MIN_TOKENS = 2  # fewer tokens have no rate


class _Model:
    """The series of one alias. Looking one up by labels takes as long as counting."""

    def __init__(self, metrics: GatewayMetrics, alias: str, *, is_vlm: bool) -> None:
        self.queue = metrics.queue.labels(alias)
        self.load = metrics.load.labels(alias)
        self.first_output = metrics.first_output.labels(alias)
        self.retries = metrics.retries.labels(alias)
        self.broken = metrics.broken.labels(alias)
        self.is_vlm = is_vlm
        if is_vlm:  # an image model's tokens have no rate
            self.prompt, self.cached, self.completion = (
                metrics.tokens.labels(alias, kind) for kind in ("prompt", "cached", "completion")
            )
            self.whole_rate = metrics.rate.labels(alias, "false")
            self.streamed_rate = metrics.rate.labels(alias, "true")


class GatewayMetrics:
    """A ``web.access_log.Observer``. *templates*: the paths of all routes."""

    def __init__(self, settings: Settings, templates: Iterable[str], images: ImageStore) -> None:
        self.registry = registry = CollectorRegistry()
        self._routes = RouteNames(templates)
        self._images = images
        self._in_flight = 0
        self.requests = Counter(
            "vision_gateway_requests",
            "Finished requests. Status 499: the client disconnected; 0: no response was sent.",
            ("route", "alias", "status"),
            registry=registry,
        )
        self.total = Histogram(
            "vision_gateway_request_seconds",
            "From the request to the end of its response.",
            ("route", "alias"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "vision_gateway_queue_seconds",
            "From requesting the model until it accepted the request, its load included.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.load = Histogram(
            "vision_gateway_load_wait_seconds",
            "Load time of the requests that waited for a load.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_output = Histogram(
            "vision_gateway_first_output_seconds",
            "Streams: from the request to the first event; comments do not count.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.rate = Histogram(
            "vision_gateway_tokens_per_second",
            "Rate of one response. Streamed: after its first event; else over the model's whole time.",
            ("alias", "streamed"),
            buckets=_RATES,
            registry=registry,
        )
        self.tokens = Counter(
            "vision_gateway_tokens",
            "Tokens of responses that report usage. cached: prompt tokens not computed again.",
            ("alias", "kind"),
            registry=registry,
        )
        self.retries = Counter(
            "vision_gateway_retries",
            "Requests that were sent again because their worker ended before it answered.",
            ("alias",),
            registry=registry,
        )
        self.broken = Counter(
            "vision_gateway_broken_answers",
            "Responses that began successfully and broke off.",
            ("alias",),
            registry=registry,
        )
        # All are created at startup: a series that appears with its first event hides that event.
        self._models = {
            alias: _Model(self, alias, is_vlm=isinstance(model, VlmSettings))
            for alias, model in settings.models.items()
        }
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._totals: dict[tuple[str, str], Histogram] = {}

    def began(self) -> None:
        self._in_flight += 1

    def ended(self, record: RequestRecord) -> None:
        self._in_flight -= 1
        alias = record.alias
        model = self._models.get(alias)
        if model is None:
            alias = NONE if alias == "-" else OTHER
        route = self._routes.of(record.path)
        self._count(route, alias, record.status)
        if model is None:
            return
        if record.repeated:
            model.retries.inc(record.repeated)
        if not 200 <= record.status < 300:
            return
        if record.error:
            model.broken.inc()
            return
        self._total(route, alias).observe(record.total_ms / 1e3)
        if record.queue_ms is not None:
            model.queue.observe(record.queue_ms / 1e3)
        if record.load_ms:
            model.load.observe(record.load_ms / 1e3)
        if record.streamed and record.first_output_ms is not None:
            model.first_output.observe(record.first_output_ms / 1e3)
        if model.is_vlm:
            self._tokens(model, record)

    def families(self) -> Iterator[Metric]:
        """Metrics of the current state."""
        yield build_info("gateway")
        yield gauge(
            "vision_gateway_requests_in_flight",
            "Requests in progress, including this scrape.",
            self._in_flight,
        )
        self._images.sweep()
        yield gauge(
            "vision_gateway_pictures_bytes",
            "Stored images that were requested as URLs.",
            self._images.nbytes,
        )
        yield gauge(
            "vision_gateway_pictures_limit_bytes",
            "The store's limit (gateway.image_url_max_mb).",
            self._images.limit,
        )

    def _count(self, route: str, alias: str, status: int) -> None:
        key = (route, alias, status)
        series = self._counts.get(key)
        if series is None:
            series = self._counts[key] = self.requests.labels(route, alias, str(status))
        series.inc()

    def _total(self, route: str, alias: str) -> Histogram:
        key = (route, alias)
        series = self._totals.get(key)
        if series is None:
            series = self._totals[key] = self.total.labels(route, alias)
        return series

    def _tokens(self, model: _Model, record: RequestRecord) -> None:
        usage = record.usage
        if usage.prompt:
            model.prompt.inc(usage.prompt)
        if usage.cached:
            model.cached.inc(usage.cached)
        if not usage.completion:
            return
        model.completion.inc(usage.completion)
        if usage.completion < _MIN_TOKENS:
            return
        if not record.streamed:
            if record.model_ms:
                model.whole_rate.observe(usage.completion * 1e3 / record.model_ms)
        elif record.first_output_ms is not None:
            took = record.total_ms - record.first_output_ms
            if took > 0:
                model.streamed_rate.observe(usage.completion * 1e3 / took)
