"""packaging/ works: a real Prometheus scrapes a real stack, and each dashboard panel has data."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hostctl.local_stack import ROOT, LocalStack
from testkit import plain
from testkit.images import GREEN_STAR, RED_CIRCLE, as_base64, ask
from testkit.stacks import running, wait_for
from tests.live.deploy.prometheus import FOLDER, Prometheus, configured, program, prometheus

DASHBOARD = json.loads((ROOT / "packaging" / "grafana" / "vision-insight.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
KEY = "a-key-for-prometheus"
CHAT = "/v1/chat/completions"
# Events that a healthy stack does not have; each is a target, named by the words of its legend.
QUIET = ("crashed", "could not be loaded")

pytestmark = [pytest.mark.process, pytest.mark.mlx]


def filled_in(expression: str) -> str:
    """The expression as Grafana sends it."""
    filled = expression.replace("$alias", ".+")
    for variable in ("$__rate_interval", "$__range", "$__interval"):
        filled = filled.replace(variable, "5m")
    assert "$" not in filled, filled
    return filled


def use(http: httpx.Client) -> None:
    """Send requests that change every metric."""
    red = ask(RED_CIRCLE, "Describe this image.")
    for _ in range(3):  # the later ones find image and prompt in the caches
        assert http.post(CHAT, json=red).status_code == 200
    # It begins with other words, so that only the image is in a cache.
    other = ask(RED_CIRCLE, "Describe this image.")
    other["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert http.post(CHAT, json=other).status_code == 200
    streamed = {
        **ask(GREEN_STAR, "Describe this image."),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for _ in range(2):
        assert "[DONE]" in http.post(CHAT, json=streamed).text
    generation = {"prompt": "a red circle on a blue background", "response_format": "url"}
    for _ in range(2):
        assert http.post("/v1/images/generations", json=generation).status_code == 200
    edit = {"prompt": "a green star", "image": as_base64(RED_CIRCLE), "strength": 0.5}
    assert http.post("/v1/images/edits", json=edit).status_code == 200
    assert http.post(CHAT, json={"model": "nobody"}).status_code in (400, 404)
    assert http.post("/v1/system/evict/vlm-best").status_code == 200
    assert http.post(CHAT, json=red).status_code == 200


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    program("prometheus")
    with running(tmp_path_factory.mktemp("stack"), {"gateway.api_key": KEY}) as stack:
        yield stack


@pytest.fixture(scope="module")
def watched(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the stack before and after it was used."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = f"127.0.0.1:{stack.settings.gateway.port}"
    with prometheus(folder, configured(folder, target, KEY)) as seen:
        wait_for(lambda: seen.values('up{job=~"vision-.*"}') == [1, 1])
        # A rate needs two scrapes: growth before the first one would not count.
        with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=120) as http:
            for _ in range(2):
                use(http)
        wait_for(lambda: seen.values('vision_worker_starts_total{alias="vlm-best"}') >= [2])
        wait_for(lambda: seen.values('vision_worker_tokens_total{alias="vlm-best"}') > [0])
        yield seen


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_data(watched: Prometheus, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        values = watched.values(filled_in(target["expr"]))
        if not target["legendFormat"].endswith(QUIET):
            assert [v for v in values if math.isfinite(v)], f"{target['expr']}: {values}"


def test_the_variable_and_the_annotations_of_the_dashboard_have_data(watched: Prometheus) -> None:
    (alias,) = (v for v in DASHBOARD["templating"]["list"] if v["type"] == "query")
    assert alias["definition"] == "label_values(vision_worker_up, alias)"
    names = watched.get("/label/alias/values", **{"match[]": "vision_worker_up"})
    assert set(names) == {"vlm-fast", "vlm-best", "image-gen"}
    (annotation,) = DASHBOARD["annotations"]["list"]
    assert watched.values(filled_in(annotation["expr"]))


def test_the_counters_match_the_requests(watched: Prometheus) -> None:
    def of(metric: str, **labels: str) -> list[float]:
        return watched.values(
            f"{metric}{{{','.join(f'{name}={json.dumps(to)}' for name, to in labels.items())}}}"
        )

    # Two rounds of two images with four steps, and an edit with half of eight.
    wait_for(lambda: of("vision_worker_steps_total", alias="image-gen") == [2 * (2 * 4 + 4)])
    assert of("vision_worker_evictions_total", alias="vlm-best", reason="request") == [2]
    assert of("vision_worker_crashes_total", alias="vlm-best") == [0]
    answered = {"route": CHAT, "alias": "vlm-best", "status": "200"}
    wait_for(lambda: of("vision_gateway_requests_total", **answered) == [14])  # with the next scrape
    assert of("vision_gateway_first_output_seconds_count", alias="vlm-best") == [4]
    assert of("vision_worker_cached_tokens_total", alias="vlm-best") > [0]
    assert of("vision_worker_cached_pictures_total", alias="vlm-best") > [0]
    assert of("vision_worker_footprint_bytes", alias="vlm-best") > [50e6]


def test_the_alert_rules_are_valid_and_a_healthy_stack_raises_none(watched: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in watched.get("/rules")["groups"] for rule in group["rules"]]

    wait_for(lambda: all(rule["health"] == "ok" for rule in rules()))
    assert {rule["name"]: rule["state"] for rule in rules()} == dict.fromkeys(
        [rule["alert"] for rule in RULES], "inactive"
    )


def test_prometheus_own_linter_accepts_the_metrics(stack: LocalStack) -> None:
    for path in ("/metrics", "/metrics/manager"):
        text = plain.get(stack.url + path, headers=stack.headers).content
        done = subprocess.run(
            [program("promtool"), "check", "metrics"], input=text, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_configuration_is_valid(tmp_path: Path) -> None:
    config = FOLDER / "prometheus.yml"
    done = subprocess.run(
        [program("promtool"), "check", "config", str(config)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_raised_by_its_cause_and_by_nothing_else(tmp_path: Path) -> None:
    for file in (FOLDER / "alerts.yml", Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(tmp_path / "alerts_test.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load((tmp_path / "alerts_test.yml").read_text())["tests"][0]["alert_rule_test"]
    assert {case["alertname"] for case in cases} == {rule["alert"] for rule in RULES}


def test_the_documented_metrics_are_the_exposed_ones(stack: LocalStack) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    exposed = set()
    for path in ("/metrics", "/metrics/manager"):
        text = plain.get(stack.url + path, headers=stack.headers).text
        for family in text_string_to_metric_families(text):
            exposed.add(family.name + ("_total" if family.type == "counter" else ""))
    page = (ROOT / "docs" / "monitoring.md").read_text()
    documented = {
        word.strip("`")
        for line in page.splitlines()
        if line.startswith("| `vision_")
        for word in line.split("|")[1].replace(",", " ").split()
    }
    assert documented == exposed
