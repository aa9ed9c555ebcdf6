"""Real workers come and go: cold start, eviction, idle time-out, turns, and the death of each tier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.local_stack import CannotStart, LocalStack
from tests.pictures import RED_CIRCLE, RED_CIRCLE_CAPTION, as_base64, ask
from tests.stacks import process_of, processes, running, states, wait_for

pytestmark = [pytest.mark.process, pytest.mark.mlx]

CAPTION = {"image": as_base64(RED_CIRCLE)}
DRAW = {"prompt": RED_CIRCLE_CAPTION, "seed": 0}


def caption(stack: LocalStack, **headers: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/vision/analyze", json=CAPTION, headers=headers, timeout=120)


def test_a_cold_model_loads_once_for_all_who_ask_and_leaves_when_evicted_or_idle(
    tmp_path: Path,
) -> None:
    with running(tmp_path, {"models.vlm-best.idle_timeout_s": 1}) as stack:
        assert set(states(stack).values()) == {"stopped"}
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: caption(stack), range(6)))
        assert [a.json()["result"] for a in answers] == [RED_CIRCLE_CAPTION] * 6
        log = (Path(stack.settings.manager.log_dir) / "manager.log").read_text()
        assert log.count("vlm-best: stopped -> starting") == 1, log
        wait_for(lambda: states(stack)["vlm-best"] == "stopped")
        assert caption(stack).status_code == 200
        assert httpx.post(f"{stack.url}/v1/system/evict/vlm-best", timeout=30).status_code == 200
        assert states(stack)["vlm-best"] == "stopped"
        assert httpx.post(f"{stack.url}/v1/system/evict/vlm-best", timeout=30).status_code == 200


def test_two_models_that_do_not_fit_together_take_turns(tmp_path: Path) -> None:
    # Too little for both, as declared and as they are measured then.
    changes = {
        "memory.max_unified_memory_gb": 0.2,
        "memory.safety_margin_gb": 0,
        "models.vlm-best.memory_gb": 0.15,
        "models.image-gen.memory_gb": 0.2,
    }
    with running(tmp_path, changes) as stack:
        assert caption(stack).status_code == 200
        drawn = httpx.post(f"{stack.url}/v1/images/generations", json=DRAW, timeout=120)
        assert drawn.status_code == 200
        assert states(stack)["vlm-best"] == "stopped"
        assert caption(stack).status_code == 200
        assert states(stack)["image-gen"] == "stopped"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack for tests that it recovers from; each starts with vlm-best answering."""
    with running(tmp_path_factory.mktemp("warm")) as stack:
        yield stack


def test_a_request_for_a_ready_worker_does_not_wait_for_another_s_load(warm: LocalStack) -> None:
    assert caption(warm).status_code == 200
    done: list[str] = []

    def draw() -> None:
        httpx.post(f"{warm.url}/v1/images/generations", json=DRAW, timeout=120)
        done.append("draw")

    thread = threading.Thread(target=draw)
    thread.start()
    wait_for(lambda: states(warm)["image-gen"] == "starting")
    answer = caption(warm)
    done.append("caption")
    thread.join()
    assert answer.status_code == 200
    assert done == ["caption", "draw"]


def test_a_client_that_leaves_stops_the_work(warm: LocalStack) -> None:
    with httpx.Client(base_url=warm.url, timeout=120) as http:
        assert http.post("/v1/images/generations", json=DRAW).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json={**DRAW, "steps": 100, "n": 10}, timeout=1)
        wait_for(
            lambda: (
                http.get("/v1/system/status").json()["workers"]["image-gen"]["active_requests"] == 0
            ),
            10,
        )
        assert http.post("/v1/images/generations", json=DRAW).status_code == 200


def test_a_standby_becomes_the_worker_and_another_leaves_with_the_manager(tmp_path: Path) -> None:
    with running(tmp_path, {"manager.standby": 1}) as stack:
        manager = process_of(stack, "manager")
        url = f"http://127.0.0.1:{stack.settings.manager.port}"

        def parked() -> psutil.Process | None:
            ready = httpx.get(f"{url}/status").json()["standby"]["ready"]
            found = [c for c in manager.children() if "--standby" in c.cmdline()]
            return found[-1] if ready and found else None

        standby = wait_for(parked, 60)
        assert caption(stack).json()["result"] == RED_CIRCLE_CAPTION
        worker = httpx.get(f"{url}/status").json()["workers"]["vlm-best"]["pid"]
        assert worker == standby.pid
        another = wait_for(lambda: (found := parked()) and found.pid != worker and found, 60)
        manager.kill()
        wait_for(lambda: not alive(standby) and not alive(another), 5)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_kill_9_of_the_manager_leaves_no_process_within_five_seconds(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        assert caption(stack).status_code == 200
        worker = process_of(stack, "vlm-best")
        process_of(stack, "manager").kill()
        wait_for(lambda: not alive(worker), 5)
        gateway = process_of(stack, "gateway")
        assert processes(stack) == [gateway]
        assert httpx.get(f"{stack.url}/healthz").json()["status"] == "degraded"
        answer = caption(stack)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "manager_unreachable")


def test_kill_9_of_a_worker_in_mid_stream_ends_the_stream_with_an_error_and_the_next_request_is_served(
    warm: LocalStack,
) -> None:
    assert caption(warm).status_code == 200
    body = {**ask(RED_CIRCLE, "Describe this image in detail."), "stream": True, "n": 8}
    with httpx.stream("POST", f"{warm.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "content" in line)
        process_of(warm, "vlm-best").kill()
        rest = "\n".join(lines)
    assert "worker_failed" in rest
    wait_for(lambda: caption(warm).status_code == 200, 30)


def test_kill_9_of_the_gateway_stops_no_worker_and_a_new_one_finds_it_ready(warm: LocalStack) -> None:
    assert caption(warm).status_code == 200
    worker = process_of(warm, "vlm-best")
    process_of(warm, "gateway").kill()
    warm.start("gateway")
    warm.wait_until_ready()
    assert caption(warm).status_code == 200
    assert process_of(warm, "vlm-best").pid == worker.pid


def test_a_taken_port_is_named_with_the_cure(warm: LocalStack) -> None:
    again = LocalStack(warm.config, {})
    with pytest.raises(CannotStart, match=r"is taken.*GATEWAY_PORT="):
        again.__enter__()


def test_the_death_of_whoever_started_the_stack_ends_it(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        assert caption(stack).status_code == 200
        stack.let_go()
        wait_for(lambda: processes(stack) == [], 15)


def test_a_key_is_wanted_when_one_is_set(tmp_path: Path) -> None:
    with running(tmp_path, {"gateway.api_key": "s3cret"}) as stack:
        assert caption(stack).status_code == 401
        assert caption(stack, authorization="Bearer wrong").status_code == 401
        assert caption(stack, **{"x-api-key": "s3cret"}).json()["result"] == RED_CIRCLE_CAPTION


def test_a_checkpoint_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with running(tmp_path, {"models.vlm-best.path": "./nowhere"}) as stack:
        answer = caption(stack)
        assert answer.status_code == 503
        problem = answer.json()["error"]
        assert problem["code"] == "load_failed"
        assert "nowhere" in problem["message"]
        assert answer.headers["x-should-retry"] == "false"
