"""docker-compose.yml in front of a manager on this host: its main use, restarts, settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import yaml

from demo.judge import check_caption
from hostctl.local_stack import ROOT, LocalStack
from testkit import plain
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, as_base64, ask, opened
from testkit.stacks import demo_config, process_of, wait_for
from tests.live.containers.conftest import answers, manager_url, running_manager
from tests.live.containers.engine import IMAGE, Compose, inspect, kill_9

pytestmark = [pytest.mark.process, pytest.mark.mlx, pytest.mark.container]

CAPTION = {"image": as_base64(RED_CIRCLE)}
COMPOSE = ROOT / "docker-compose.yml"


class HoldingStack(LocalStack):
    """Its workers are fakes: the model path has their options (testkit/fakes/worker.py)."""

    def program(self, tier: str) -> Sequence[str]:
        return (sys.executable, str(ROOT / "testkit" / "fakes" / "manager.py"))


class Gateway:
    """The compose project, with *config* mounted, and its URL on this host."""

    def __init__(self, compose: Compose, url: str) -> None:
        self.compose, self.url = compose, url

    def caption(self, timeout_s: float = 120, **headers: str) -> httpx.Response:
        url = f"{self.url}/v1/vision/analyze"
        return plain.post(url, json=CAPTION, headers=headers, timeout=timeout_s)

    def status(self) -> str | None:
        answer = answers(f"{self.url}/healthz")
        return answer.json()["status"] if answer else None


def variables(config: Path, **more: object) -> dict[str, object]:
    port = yaml.safe_load(config.read_text())["gateway"]["port"]
    return {
        "GATEWAY_IMAGE": IMAGE,
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": port,
        "VISION_CONFIG": config,
        **more,
    }


def up(compose: Compose, config: Path) -> Gateway:
    port = yaml.safe_load(config.read_text())["gateway"]["port"]
    compose("up", "-d", "--no-build")
    gateway = Gateway(compose, f"http://127.0.0.1:{port}")
    wait_for(gateway.status, 60)
    return gateway


@pytest.fixture(scope="module")
def gateway(manager: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Compose(tmp_path_factory.mktemp("compose"), variables(manager.config), COMPOSE) as compose:
        yield up(compose, manager.config)


def test_the_engine_finds_it_healthy(gateway: Gateway) -> None:
    gateway.compose.wait_until_healthy()
    assert gateway.status() == "ok"


def test_an_image_is_generated_and_linked_through_the_container(gateway: Gateway) -> None:
    body = {"prompt": RED_CIRCLE_CAPTION, "seed": 0, "response_format": "url"}
    answer = plain.post(f"{gateway.url}/v1/images/generations", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    link = answer.json()["data"][0]["url"]
    assert link.startswith(gateway.url)  # as the client of a published port reaches it
    (linked,) = [plain.get(link, timeout=10).content]
    again = plain.post(
        f"{gateway.url}/v1/images/generations",
        json={**body, "response_format": "b64_json"},
        timeout=120,
    )
    image = again.json()["data"][0]["b64_json"]
    assert check_caption(opened(image), RED_CIRCLE_CAPTION).right
    assert linked.startswith(b"\x89PNG")


def test_a_stream_passes_through_the_container_unchanged(gateway: Gateway) -> None:
    request = ask(RED_CIRCLE, "Describe this image in detail.", stream=True)
    answer = plain.post(f"{gateway.url}/v1/chat/completions", json=request, timeout=120)
    lines = answer.text.splitlines()
    deltas = [json.loads(x[6:])["choices"][0]["delta"] for x in lines if x.startswith("data: {")]
    assert "red circle" in "".join(delta.get("content") or "" for delta in deltas)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_it_is_hardened_and_bounded(gateway: Gateway) -> None:
    whole = inspect(gateway.compose.container())
    host = whole["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert not host["Privileged"]
    assert host["Memory"] == 2 << 30
    assert host["PidsLimit"] == 128
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert whole["Config"]["User"] == "10001:10001"
    (mount,) = [m for m in whole["Mounts"] if m["Type"] == "bind"]
    assert (mount["Destination"], mount["RW"]) == ("/app/config.yaml", False)


def test_a_killed_gateway_is_back_in_seconds_and_no_model_is_reloaded(
    gateway: Gateway, manager: LocalStack
) -> None:
    gateway.caption()
    worker = process_of(manager, "vlm-best").pid
    container = gateway.compose.container()
    started = inspect(container)["State"]["StartedAt"]
    kill_9(container)
    wait_for(lambda: inspect(container)["State"]["StartedAt"] != started, 30)
    wait_for(lambda: gateway.status() == "ok", 60)
    assert gateway.caption().status_code == 200
    assert process_of(manager, "vlm-best").pid == worker


def test_stopping_the_gateway_leaves_manager_and_workers(gateway: Gateway, manager: LocalStack) -> None:
    gateway.caption()
    worker = process_of(manager, "vlm-best").pid
    gateway.compose("stop")
    assert answers(manager_url(manager) + "/health")
    gateway.compose("start")
    wait_for(lambda: gateway.status() == "ok", 60)
    assert process_of(manager, "vlm-best").pid == worker


def test_a_gateway_without_its_manager_is_degraded_and_recovers_when_it_starts(
    image: str, tmp_path: Path
) -> None:
    config = demo_config(tmp_path / "away")
    with Compose(tmp_path, variables(config), COMPOSE) as compose:
        gateway = up(compose, config)
        assert gateway.status() == "degraded"
        refused = gateway.caption()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "manager_unreachable")
        compose.wait_until_healthy()  # the gateway itself is well

        ports = yaml.safe_load(config.read_text())
        same = {"manager.port": ports["manager"]["port"], "gateway.port": ports["gateway"]["port"]}
        with running_manager(tmp_path / "here", same) as manager:
            wait_for(lambda: gateway.status() == "ok")
            assert gateway.caption().json()["result"] == RED_CIRCLE_CAPTION
            process_of(manager, "manager").kill()
            wait_for(lambda: gateway.status() == "degraded")
            assert gateway.caption().json()["error"]["code"] == "manager_unreachable"
            manager.start("manager")
            wait_for(lambda: gateway.status() == "ok")
            assert gateway.caption().json()["result"] == RED_CIRCLE_CAPTION


def test_a_chunk_of_a_stream_arrives_before_the_next_one_is_made(image: str, tmp_path: Path) -> None:
    """The worker waits after its first token until that token has left the container.

    The number and times of a client's reads would prove nothing: on a busy machine a whole response may
    arrive before the next read. If anything buffered this response, the test would never end.
    """
    arrived = tmp_path / "arrived"
    holds = json.dumps({"hold": str(arrived), "tokens": 3})
    changes = {"models.vlm-best.path": holds}
    with (
        running_manager(tmp_path / "holding", changes, HoldingStack) as manager,
        Compose(tmp_path, variables(manager.config), COMPOSE) as compose,
    ):
        gateway = up(compose, manager.config)
        body = ask(RED_CIRCLE, "Describe this image.", stream=True)
        url = f"{gateway.url}/v1/chat/completions"
        with plain.stream("POST", url, json=body, timeout=60) as answer:
            lines = (line for line in answer.iter_lines() if line)
            first = next(lines)
            assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == "0 "
            arrived.touch()
            assert list(lines)[-1] == "data: [DONE]"


def test_a_restart_applies_changes_of_the_config_and_of_env(image: str, tmp_path: Path) -> None:
    config = demo_config(tmp_path / "config")
    url = f"http://127.0.0.1:{yaml.safe_load(config.read_text())['gateway']['port']}/v1/vision/tasks"
    with Compose(tmp_path, variables(config), COMPOSE) as compose:
        up(compose, config)
        assert answers(url)
        data = yaml.safe_load(config.read_text())
        data["gateway"]["api_key"] = "from-the-file"
        # Editors save so: a new file replaces the old one, and a mount of the file does not see it.
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(data))
        (tmp_path / "new.yaml").rename(config)
        assert answers(url)
        compose("restart")
        wait_for(lambda: answers(url, authorization="Bearer from-the-file"), 60)
        assert plain.get(url, timeout=10).status_code == 401

        compose.set(variables(config, GATEWAY_API_KEY="from-env"))
        compose("up", "-d", "--no-build")
        wait_for(lambda: answers(url, authorization="Bearer from-env"), 60)
        assert answers(url, authorization="Bearer from-the-file") is None


def test_a_missing_config_stops_the_start_and_creates_no_folder(image: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    given = {**variables(demo_config(tmp_path / "config")), "VISION_CONFIG": absent}
    refused = pytest.raises(AssertionError, match="bind source path does not exist")
    with Compose(tmp_path, given, COMPOSE) as compose, refused:
        compose("up", "-d", "--no-build")
    assert not absent.exists()


def test_without_variables_it_publishes_8000_on_every_address(image: str, tmp_path: Path) -> None:
    with Compose(tmp_path, {}, COMPOSE) as compose:
        service = json.loads(compose("config", "--format", "json"))["services"]["gateway"]
    (port,) = service["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("0.0.0.0", "8000", 8000)
    assert service["volumes"][0]["source"] == str(ROOT / "config.yaml")
    assert service["image"] == "ghcr.io/vibe-homelab/vision-insight-api:latest"


def test_the_port_of_the_manager_is_manager_port_unless_worker_manager_port_is_set(
    image: str, tmp_path: Path
) -> None:
    def port(**given: object) -> str:
        with Compose(tmp_path, given, COMPOSE) as compose:
            services = json.loads(compose("config", "--format", "json"))["services"]
        found: str = services["gateway"]["environment"]["WORKER_MANAGER_PORT"]
        return found

    assert port() == ""  # as config.yaml has it
    assert port(MANAGER_PORT=8101) == "8101"
    assert port(MANAGER_PORT=8101, WORKER_MANAGER_PORT=8102) == "8102"
