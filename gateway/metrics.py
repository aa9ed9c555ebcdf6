"""What the gateway counts of the requests that have ended: the figures of its ``GET /metrics``.

Fed by ``web.access`` with the account of each request, once, when it is over. Rules: an alias is one of
the settings, a route one of ours, anything else is "other" (``web.metrics``). Times are of answers that
were given: a refusal, which takes no time, would make a slow model look quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

from contracts.settings import Settings
from contracts.settings.models import VlmSettings
from gateway.images_out.store import Pictures
from web.metrics import NONE, OTHER, RouteNames, build_info, gauge
from web.request_record import Account

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
_LEAST = 2  # tokens that a rate can be told of


class _Model:
    """The series of one alias; to look one up by its labels takes as long as to count."""

    def __init__(self, metrics: GatewayMetrics, alias: str, *, speaks: bool) -> None:
        self.queue = metrics.queue.labels(alias)
        self.load = metrics.load.labels(alias)
        self.first_output = metrics.first_output.labels(alias)
        self.retries = metrics.retries.labels(alias)
        self.broken = metrics.broken.labels(alias)
        self.speaks = speaks
        if speaks:  # what an image model counts as tokens comes at no rate
            self.prompt, self.cached, self.completion = (
                metrics.tokens.labels(alias, kind) for kind in ("prompt", "cached", "completion")
            )
            self.whole_rate = metrics.rate.labels(alias, "false")
            self.streamed_rate = metrics.rate.labels(alias, "true")


class GatewayMetrics:
    """A ``web.access.Observer``. *templates*: the paths of all routes."""

    def __init__(self, settings: Settings, templates: Iterable[str], pictures: Pictures) -> None:
        self.registry = registry = CollectorRegistry()
        self._routes = RouteNames(templates)
        self._pictures = pictures
        self._in_flight = 0
        self.requests = Counter(
            "vision_gateway_requests",
            "Requests that are over. Status 499: the client left; 0: nothing was answered.",
            ("route", "alias", "status"),
            registry=registry,
        )
        self.total = Histogram(
            "vision_gateway_request_seconds",
            "From a request to the end of its answer.",
            ("route", "alias"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "vision_gateway_queue_seconds",
            "From asking for the model to being let in; its load is a part of that.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.load = Histogram(
            "vision_gateway_load_wait_seconds",
            "Of requests that waited for a load: how long.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_output = Histogram(
            "vision_gateway_first_output_seconds",
            "Of streams: from the request to the first event; comments are none.",
            ("alias",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.rate = Histogram(
            "vision_gateway_tokens_per_second",
            "Of one answer. Streamed: after its first event; else over all that the model took.",
            ("alias", "streamed"),
            buckets=_RATES,
            registry=registry,
        )
        self.tokens = Counter(
            "vision_gateway_tokens",
            "Of answers that tell their usage; cached: of the prompt, not computed again.",
            ("alias", "kind"),
            registry=registry,
        )
        self.retries = Counter(
            "vision_gateway_retries",
            "Requests that were sent once more, as their worker ended before it answered.",
            ("alias",),
            registry=registry,
        )
        self.broken = Counter(
            "vision_gateway_broken_answers",
            "Answers that began well and broke off.",
            ("alias",),
            registry=registry,
        )
        # All of them from the start: a series that appears with its first event hides that event.
        self._models = {
            alias: _Model(self, alias, speaks=isinstance(model, VlmSettings))
            for alias, model in settings.models.items()
        }
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._totals: dict[tuple[str, str], Histogram] = {}

    def began(self) -> None:
        self._in_flight += 1

    def ended(self, account: Account) -> None:
        self._in_flight -= 1
        alias = account.alias
        model = self._models.get(alias)
        if model is None:
            alias = NONE if alias == "-" else OTHER
        route = self._routes.of(account.path)
        self._count(route, alias, account.status)
        if model is None:
            return
        if account.repeated:
            model.retries.inc(account.repeated)
        if not 200 <= account.status < 300:
            return
        if account.error:
            model.broken.inc()
            return
        self._total(route, alias).observe(account.total_ms / 1e3)
        if account.queue_ms is not None:
            model.queue.observe(account.queue_ms / 1e3)
        if account.load_ms:
            model.load.observe(account.load_ms / 1e3)
        if account.streamed and account.first_output_ms is not None:
            model.first_output.observe(account.first_output_ms / 1e3)
        if model.speaks:
            self._tokens(model, account)

    def families(self) -> Iterator[Metric]:
        """What there is now."""
        yield build_info("gateway")
        yield gauge(
            "vision_gateway_requests_in_flight",
            "Requests that are not over; the one for this is among them.",
            self._in_flight,
        )
        self._pictures.sweep()
        yield gauge(
            "vision_gateway_pictures_bytes",
            "Pictures that are kept because they were asked for as URLs.",
            self._pictures.nbytes,
        )
        yield gauge(
            "vision_gateway_pictures_limit_bytes",
            "How much of them may be kept (gateway.image_url_max_mb).",
            self._pictures.limit,
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

    def _tokens(self, model: _Model, account: Account) -> None:
        usage = account.usage
        if usage.prompt:
            model.prompt.inc(usage.prompt)
        if usage.cached:
            model.cached.inc(usage.cached)
        if not usage.completion:
            return
        model.completion.inc(usage.completion)
        if usage.completion < _LEAST:
            return
        if not account.streamed:
            if account.model_ms:
                model.whole_rate.observe(usage.completion * 1e3 / account.model_ms)
        elif account.first_output_ms is not None:
            took = account.total_ms - account.first_output_ms
            if took > 0:
                model.streamed_rate.observe(usage.completion * 1e3 / took)
