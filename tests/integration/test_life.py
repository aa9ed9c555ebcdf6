"""The life of real workers: cold start, eviction, idle timeout, queue, and the death of each tier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from hostctl.local_stack import CannotStart, LocalStack
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, as_base64, ask
from testkit.stacks import demo_config, process_of, processes, running, states, wait_for

pytestmark = [pytest.mark.process, pytest.mark.mlx]

CAPTION = {"image": as_base64(RED_CIRCLE)}
DRAW = {"prompt": RED_CIRCLE_CAPTION, "seed": 0}


def caption(stack: LocalStack, **headers: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/vision/analyze", json=CAPTION, headers=headers, timeout=120)


def draw(stack: LocalStack) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/images/generations", json=DRAW, timeout=120)


def evict(stack: LocalStack, alias: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/system/evict/{alias}", timeout=30)


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack with too little memory for two models, both as declared and as measured."""
    changes = {
        "memory.max_unified_memory_gb": 0.2,
        "memory.safety_margin_gb": 0,
        "models.vlm-best.memory_gb": 0.15,
        "models.vlm-best.idle_timeout_s": 3,
        "models.image-gen.memory_gb": 0.2,
        "models.vlm-fast.memory_gb": 0.15,
        "models.vlm-fast.path": "./nowhere",
    }
    with running(tmp_path_factory.mktemp("tight"), changes) as stack:
        yield stack


def test_a_missing_checkpoint_is_a_clear_error(tight: LocalStack) -> None:
    body = {**CAPTION, "model": "vlm-fast"}
    answer = httpx.post(f"{tight.url}/v1/vision/analyze", json=body, timeout=120)
    assert answer.status_code == 503
    problem = answer.json()["error"]
    assert problem["code"] == "load_failed"
    assert "nowhere" in problem["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_cold_model_loads_once_for_all_requests_shares_memory_in_turn_and_is_unloaded_when_idle(
    tight: LocalStack,
) -> None:
    assert states(tight)["vlm-best"] == "stopped"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: caption(tight), range(6)))
    assert [a.json()["result"] for a in answers] == [RED_CIRCLE_CAPTION] * 6
    log = Path(tight.settings.manager.log_dir) / "manager.log"
    assert log.read_text().count("vlm-best: stopped -> starting") == 1, log.read_text()
    assert draw(tight).status_code == 200
    assert states(tight)["vlm-best"] == "stopped"
    assert caption(tight).status_code == 200
    assert states(tight)["image-gen"] == "stopped"
    wait_for(lambda: states(tight)["vlm-best"] == "stopped")


def test_a_request_for_a_ready_worker_does_not_wait_for_another_load(stack: LocalStack) -> None:
    assert draw(stack).status_code == 200
    for _ in range(2):  # the second one finds nothing to unload, and succeeds
        assert evict(stack, "image-gen").status_code == 200
        assert states(stack)["image-gen"] == "stopped"
    assert caption(stack).status_code == 200
    done: list[str] = []

    def load() -> None:
        draw(stack)
        done.append("draw")

    thread = threading.Thread(target=load)
    thread.start()
    wait_for(lambda: states(stack)["image-gen"] == "starting")
    answer = caption(stack)
    done.append("caption")
    thread.join()
    assert answer.status_code == 200
    assert done == ["caption", "draw"]


def test_a_client_that_disconnects_stops_its_job(http: httpx.Client) -> None:
    assert http.post("/v1/images/generations", json=DRAW).status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/images/generations", json={**DRAW, "steps": 100, "n": 10}, timeout=1)
    wait_for(
        lambda: http.get("/v1/system/status").json()["workers"]["image-gen"]["active_requests"] == 0,
        10,
    )
    assert http.post("/v1/images/generations", json=DRAW).status_code == 200


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_standby_worker_serves_and_kill_9_of_the_manager_leaves_no_process_after_five_seconds(
    tmp_path: Path,
) -> None:
    with running(tmp_path, {"manager.standby": 1}) as stack:
        manager = process_of(stack, "manager")
        url = f"http://127.0.0.1:{stack.settings.manager.port}"

        def ready_standby() -> psutil.Process | None:
            ready = httpx.get(f"{url}/status").json()["standby"]["ready"]
            found = [c for c in manager.children() if "--standby" in c.cmdline()]
            return found[-1] if ready and found else None

        standby = wait_for(ready_standby, 60)
        assert caption(stack).json()["result"] == RED_CIRCLE_CAPTION
        worker = httpx.get(f"{url}/status").json()["workers"]["vlm-best"]["pid"]
        assert worker == standby.pid
        another = wait_for(lambda: (p := ready_standby()) and p.pid != worker and p, 60)
        manager.kill()
        wait_for(lambda: not alive(standby) and not alive(another), 5)
        gateway = process_of(stack, "gateway")
        assert processes(stack) == [gateway]
        assert httpx.get(f"{stack.url}/healthz").json()["status"] == "degraded"
        answer = caption(stack)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "manager_unreachable")


def test_kill_9_of_a_streaming_worker_ends_the_stream_with_an_error_and_the_next_request_succeeds(
    stack: LocalStack,
) -> None:
    assert caption(stack).status_code == 200
    body = {**ask(RED_CIRCLE, "Describe this image in detail."), "stream": True, "n": 8}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "content" in line)
        process_of(stack, "vlm-best").kill()
        rest = "\n".join(lines)
    assert "worker_failed" in rest
    wait_for(lambda: caption(stack).status_code == 200, 30)


def test_a_new_gateway_uses_the_running_worker_and_all_processes_end_with_their_parent(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as stack:
        assert caption(stack).status_code == 200
        worker = process_of(stack, "vlm-best")
        process_of(stack, "gateway").kill()
        stack.start("gateway")
        stack.wait_until_ready()
        assert caption(stack).status_code == 200
        assert process_of(stack, "vlm-best").pid == worker.pid
        stack.let_go()
        wait_for(lambda: processes(stack) == [], 15)


def test_a_taken_port_is_named_with_the_solution(stack: LocalStack) -> None:
    again = LocalStack(stack.config, {})
    with pytest.raises(CannotStart, match=r"is taken.*GATEWAY_PORT="):
        again.__enter__()


def test_a_configured_key_is_required(stack: LocalStack, tmp_path: Path) -> None:
    """With a separate gateway in front of the shared manager."""
    changes = {"gateway.api_key": "s3cret", "manager.port": stack.settings.manager.port}
    with LocalStack(demo_config(tmp_path, changes), {}, tiers=("gateway",)) as closed:
        closed.wait_until_ready()
        assert caption(closed).status_code == 401
        assert caption(closed, authorization="Bearer wrong").status_code == 401
        assert caption(closed, **{"x-api-key": "s3cret"}).json()["result"] == RED_CIRCLE_CAPTION
