"""Gateway settings that no other test changes: each is changed and its effect observed."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import yaml

from contracts.settings.file import load
from gateway.app import create_app
from hostctl.local_stack import LocalStack
from testkit import plain
from testkit.servers import served
from testkit.stacks import demo_config, process_of
from tests.gateway.conftest import CONFIG, make_settings
from tests.gateway.stand_in import StandIn
from web.ports import EVERYWHERE, is_everywhere

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
PNG = "iVBORw0KGgo="
ROUTES = {
    "chat": ("/v1/chat/completions", HELLO),
    "analyze": ("/v1/vision/analyze", {"image": PNG}),
    "generate": ("/v1/images/generations", {"prompt": "p"}),
    "edit": ("/v1/images/edits", {"prompt": "p", "image": PNG}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_default_of_a_route_is_the_configured_alias(
    tmp_path: Path, manager: StandIn, manager_url: str, route: str
) -> None:
    data = yaml.safe_load(CONFIG)
    data["models"]["a2"] = {**data["models"]["a"], "port": 18011, "names": []}
    data["models"]["b2"] = {**data["models"]["b"], "port": 18012}
    data["defaults"][route] += "2"
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    settings = load(file, {"WORKER_MANAGER_PORT": manager_url.rpartition(":")[2]})
    path, body = ROUTES[route]
    with served(create_app(settings)) as url:
        plain.post(url + path, json=body)
    assert manager.received[0].path.startswith(f"/workers/{data['defaults'][route]}/")


def test_without_image_models_the_image_routes_are_a_404_and_the_others_work(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    data = yaml.safe_load(CONFIG)
    data["models"] = {a: m for a, m in data["models"].items() if m["kind"] == "vlm"}
    del data["defaults"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    settings = load(file, {"WORKER_MANAGER_PORT": manager_url.rpartition(":")[2]})
    with served(create_app(settings)) as url:
        answers = {route: plain.post(url + path, json=body) for route, (path, body) in ROUTES.items()}
        models = plain.get(f"{url}/v1/models").json()["data"]
    assert [answers[route].status_code for route in ("generate", "edit")] == [404, 404]
    error = answers["generate"].json()["error"]
    assert error["message"] == "no model here can generate: add one of kind image to the settings"
    assert error["param"] == "model"
    assert {seen.path.split("/")[2] for seen in manager.received if "/v1/" in seen.path} == {"a"}
    assert models[0]["default_for"] == ["chat", "analyze"]


def test_the_manager_is_contacted_on_the_configured_host(tmp_path: Path, manager_url: str) -> None:
    # Nothing listens there; the error shows the address.
    settings = make_settings(tmp_path, manager_url, "gateway: {manager_host: nowhere.invalid}\n")
    with served(create_app(settings)) as url:
        answer = plain.post(f"{url}/v1/chat/completions", json=HELLO, timeout=20)
    assert answer.status_code == 503
    assert "http://nowhere.invalid:" in answer.json()["error"]["message"]


def test_the_token_goes_to_the_manager_on_both_paths(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    settings = make_settings(tmp_path, manager_url, "manager: {token: t0ken}\n")
    with served(create_app(settings)) as url:
        plain.post(f"{url}/v1/chat/completions", json=HELLO)
        plain.post(f"{url}/v1/system/evict/a")
    assert manager.received[0].headers["authorization"] == "Bearer t0ken"
    assert manager.control_tokens == ["Bearer t0ken"]


@pytest.mark.process
@pytest.mark.parametrize(
    "hosts",
    [{"gateway": "127.0.0.1", "manager": "0.0.0.0"}, {"gateway": "0.0.0.0", "manager": "127.0.0.1"}],
    ids=lambda hosts: hosts["gateway"],
)
def test_each_tier_listens_on_its_configured_address(tmp_path: Path, hosts: dict[str, str]) -> None:
    file = demo_config(tmp_path, {f"{tier}.host": host for tier, host in hosts.items()})
    with LocalStack(file, {"PATH": "/usr/bin:/bin"}) as stack:
        stack.wait_until_ready()
        for tier, host in hosts.items():
            process = process_of(stack, tier)
            listening = {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
            # The gateway's "all addresses" means both families; the manager uses IPv4 only.
            both = tier == "gateway" and is_everywhere(host)
            port = getattr(stack.settings, tier).port
            assert listening == {(address, port) for address in (EVERYWHERE if both else (host,))}
