"""The gateway's metrics: counts, labels, and access."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import create_app
from gateway.images_out.store import ImageStore
from gateway.metrics import GatewayMetrics
from testkit import plain
from testkit.servers import served
from testkit.stacks import wait_for
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import StandIn
from web.metrics import OTHER, RouteNames
from web.request_record import RequestRecord

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures(client: httpx.Client) -> Figures:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(answer.text)


def parsed(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Figures, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def growth(before: Figures, after: Figures, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


def test_a_request_is_counted_by_route_alias_and_status_and_timed(
    client: httpx.Client, manager: StandIn
) -> None:
    before = figures(client)
    assert client.post(CHAT, json={**HELLO, "model": "alpha"}).status_code == 200
    after = figures(client)
    labels = {"route": CHAT, "alias": "a"}
    assert growth(before, after, "vision_gateway_requests_total", **labels, status="200") == 1
    assert growth(before, after, "vision_gateway_request_seconds_count", **labels) == 1
    assert growth(before, after, "vision_gateway_request_seconds_sum", **labels) > 0


def test_client_text_never_becomes_a_label(client: httpx.Client, manager: StandIn) -> None:
    before = set(figures(client))
    for name in ("x1", "x2", "x3"):
        client.post(CHAT, json={**HELLO, "model": name})
        client.get(f"/{name}")
        client.get(f"/v1/models/{name}")
        client.request(name.upper(), CHAT)
    names = {label for _, labels in set(figures(client)) - before for label in dict(labels).values()}
    assert names <= {CHAT, "/v1/models/{name}", OTHER, "none", "404", "405"}


def test_a_repeated_request_counts_as_a_retry(client: httpx.Client, manager: StandIn) -> None:
    before = figures(client)
    manager.deaths = 1
    assert client.post(CHAT, json=HELLO).status_code == 200
    assert growth(before, figures(client), "vision_gateway_retries_total", alias="a") == 1


def test_a_refusal_is_counted_and_not_timed(client: httpx.Client, manager: StandIn) -> None:
    before = figures(client)
    manager.mode = "fail"
    assert client.post(CHAT, json=HELLO).status_code == 429
    after = figures(client)
    labels = {"route": CHAT, "alias": "a"}
    assert growth(before, after, "vision_gateway_requests_total", **labels, status="429") == 1
    assert growth(before, after, "vision_gateway_request_seconds_count", **labels) == 0


def test_a_response_that_breaks_off_does_not_count_as_successful(
    client: httpx.Client, manager: StandIn
) -> None:
    before = figures(client)
    manager.mode = "break"
    client.post(CHAT, json={**HELLO, "stream": True})
    after = figures(client)
    assert growth(before, after, "vision_gateway_broken_answers_total", alias="a") == 1
    labels = {"route": CHAT, "alias": "a"}
    assert growth(before, after, "vision_gateway_request_seconds_count", **labels) == 0


def test_an_open_request_is_in_flight_until_it_ends(client: httpx.Client, manager: StandIn) -> None:
    name = "vision_gateway_requests_in_flight"
    assert value(figures(client), name) == 1  # the scrape itself
    manager.mode = "hang"
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=HELLO, timeout=0.2)
    wait_for(lambda: value(figures(client), name) == 1)
    gone = {"route": CHAT, "alias": "a", "status": "499"}
    assert value(figures(client), "vision_gateway_requests_total", **gone) >= 1


@pytest.fixture
def metrics(tmp_path: Path) -> GatewayMetrics:
    settings = make_settings(tmp_path, "http://127.0.0.1:1")
    return GatewayMetrics(settings, [CHAT, "/v1/images/generations"], ImageStore(1, 1))


def record(body: bytes, **known: object) -> RequestRecord:
    made = RequestRecord(0.0, "POST", CHAT, alias="a", status=200, total_ms=3000.0)
    for name, known_value in known.items():
        setattr(made, name, known_value)
    made.note(body)
    return made


USAGE = (
    b'{"usage":{"prompt_tokens":100,"completion_tokens":40,'
    b'"prompt_tokens_details":{"cached_tokens":64}}}'
)


def counted(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_tokens_are_counted_and_the_rate_uses_model_time(metrics: GatewayMetrics) -> None:
    metrics.began()
    metrics.ended(record(USAGE, model_ms=2000, queue_ms=700, load_ms=500))
    for kind, tokens in (("prompt", 100), ("cached", 64), ("completion", 40)):
        assert counted(metrics, "vision_gateway_tokens_total", alias="a", kind=kind) == tokens
    rate = {"alias": "a", "streamed": "false"}
    assert counted(metrics, "vision_gateway_tokens_per_second_sum", **rate) == 20
    assert counted(metrics, "vision_gateway_queue_seconds_sum", alias="a") == 0.7
    assert counted(metrics, "vision_gateway_load_wait_seconds_sum", alias="a") == 0.5


def test_the_rate_of_a_stream_is_counted_from_its_first_event(metrics: GatewayMetrics) -> None:
    metrics.began()
    metrics.ended(record(USAGE, streamed=True, first_output_ms=1000.0))
    rate = {"alias": "a", "streamed": "true"}
    assert counted(metrics, "vision_gateway_tokens_per_second_sum", **rate) == 20
    assert counted(metrics, "vision_gateway_first_output_seconds_sum", alias="a") == 1


def test_a_request_that_waited_for_no_load_is_not_in_the_load_histogram(
    metrics: GatewayMetrics,
) -> None:
    metrics.began()
    metrics.ended(record(USAGE, queue_ms=0, load_ms=0))
    assert counted(metrics, "vision_gateway_load_wait_seconds_count", alias="a") == 0
    assert counted(metrics, "vision_gateway_queue_seconds_count", alias="a") == 1


def test_image_tokens_have_no_rate(metrics: GatewayMetrics) -> None:
    metrics.began()
    metrics.ended(record(USAGE, alias="b", model_ms=2000))
    rate = {"alias": "b", "streamed": "false"}
    assert counted(metrics, "vision_gateway_tokens_per_second_count", **rate) is None


def test_a_path_is_its_template() -> None:
    names = RouteNames(["/a", "/v1/models/{name:path}", "/v1/models", "/v1/models/x/{y}"])
    assert [
        names.of(path)
        for path in ("/a", "/a/", "/v1/models", "/v1/models/o%2Fn", "/v1/models/x/1", "/v2")
    ] == ["/a", OTHER, "/v1/models", "/v1/models/{name}", "/v1/models/x/{y}", OTHER]


def test_access_to_metrics_is_configurable(tmp_path: Path, manager_url: str) -> None:
    seen = {}
    for access in ("key", "open", "off"):
        settings = make_settings(
            tmp_path, manager_url, f"gateway: {{api_key: secret, metrics: '{access}'}}\n"
        )
        with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
            key = {"authorization": "Bearer secret"}
            for path in ("/metrics", "/metrics/manager"):
                bare, keyed = http.get(path), http.get(path, headers=key)
                seen[access, path] = (bare.status_code, keyed.status_code)
    assert seen == {
        ("key", "/metrics"): (401, 200),
        ("key", "/metrics/manager"): (401, 200),
        ("open", "/metrics"): (200, 200),
        ("open", "/metrics/manager"): (200, 200),
        ("off", "/metrics"): (404, 404),
        ("off", "/metrics/manager"): (404, 404),
    }


def test_the_manager_s_metrics_are_forwarded_and_its_absence_is_an_error(
    client: httpx.Client, lonely: httpx.Client, manager: StandIn
) -> None:
    answer = client.get("/metrics/manager")
    assert answer.status_code == 200
    assert answer.text == "stand_in 1\n"
    assert answer.headers["content-type"].startswith("text/plain")
    away = lonely.get("/metrics/manager")
    assert away.status_code == 503
    assert away.json()["error"]["code"] == "manager_unreachable"
