"""Faults with real workers and the demo models, where a real model thread makes a difference."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from typing import Any

from manager.launcher.process import ROOT
from testkit.stacks import wait_for
from tests.faults.calls import PATIENCE_S
from tests.faults.fault import Fault
from tests.faults.processes import alive
from tests.faults.world import World, eventually_answers

MODELS = ROOT / "demo" / "models"
# Work that lasts as long as a row needs, on any machine: completions without end tokens, and images
# that take several seconds.
END_TOKENS = json.loads((MODELS / "vlm-best" / "generation_config.json").read_text())["eos_token_id"]
LONG_STREAM: dict[str, Any] = {
    "n": 8,
    "max_tokens": 3500,
    "temperature": 1.0,
    "logit_bias": {str(token): -100 for token in END_TOKENS},
}
LONG_IMAGE: dict[str, Any] = {"steps": 100, "n": 2}
SHORT = [{"role": "user", "content": "hello"}]


def _killed_in_mid_stream(world: World) -> None:
    stream = world.stream("vlm-best", **LONG_STREAM)
    world.signal_worker("vlm-best", signal.SIGSTOP)  # otherwise it would serve the second one too
    silent = world.call("analyze", "vlm-best")
    wait_for(lambda: world.open_requests("vlm-best") == 2)
    world.signal_worker("vlm-best")
    assert stream.got_error, stream
    assert stream.code == "worker_failed", stream
    assert silent.served, silent


def _stopped_at_work(world: World) -> int:
    """SIGSTOP the worker that generates an image, after a while; returns its pid."""
    pid = world.worker_pid("image-gen")
    wait_for(lambda: world.open_requests("image-gen") == 1)
    time.sleep(0.5)
    world.signal_worker("image-gen", signal.SIGSTOP)
    assert world.open_requests("image-gen") == 1  # it was not finished before
    return pid


def _killed_in_mid_image(world: World) -> None:
    assert world.serves("draw")
    call = world.call("draw", **LONG_IMAGE)
    world.kill_process(_stopped_at_work(world))
    assert call.served, call
    assert world.loads("image-gen") == 2


def _stopped_in_mid_image(world: World) -> None:
    assert world.serves("draw")
    call = world.call("draw", **LONG_IMAGE)
    pid = _stopped_at_work(world)
    wait_for(lambda: not alive(pid), 20)
    assert call.served, call


def _left_in_mid_stream(world: World) -> None:
    for _ in range(3):
        world.stream("vlm-best", **LONG_STREAM).leave()
    wait_for(lambda: world.open_requests("vlm-best") == 0, 5)
    assert world.serves("analyze", "vlm-best")
    assert world.loads("vlm-best") == 1


def _left_in_mid_image(world: World) -> None:
    assert world.serves("draw")
    calls = [world.call("draw", steps=100, n=10) for _ in range(3)]
    time.sleep(1)
    left_at = time.monotonic()
    for call in calls:
        call.leave()
    wait_for(lambda: world.open_requests("image-gen") == 0, 10)
    assert world.serves("draw")
    world.seen.append(f"the next image was ready {time.monotonic() - left_at:.1f} s later")


def _200_at_once(world: World) -> None:
    together = threading.Barrier(200)

    def ask() -> None:
        together.wait()
        world.call("chat", "vlm-fast", messages=SHORT, max_tokens=1).ended(PATIENCE_S)

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(call.served for call in world.calls), world.of(*world.calls)
    assert world.loads("vlm-fast") == 1
    world.seen.append(f"1 load; the last after {max(c.seconds for c in world.calls):.0f} s")


def _folder_vanishes(world: World) -> None:
    original = MODELS / "vlm-fast"
    folder = world.folder / "vanishing"
    shutil.copytree(original, folder)
    assert world.serves("analyze", "vlm-fast")
    shutil.rmtree(folder)
    assert world.serves("analyze", "vlm-fast")  # it is in memory
    assert world.control("/stop/vlm-fast").json()["was_loaded"]
    call = world.call("analyze", "vlm-fast")
    assert call.got_error, call
    assert (call.code, call.answer_headers["x-should-retry"]) == ("load_failed", "false")
    assert "vanishing" in call.message, call
    shutil.copytree(original, folder)
    eventually_answers(world, "analyze", "vlm-fast", timeout_s=60)


def _everything_at_once(world: World) -> None:
    """All three models under load; every second or two one of them is killed or evicted."""
    with world.load("vlm-fast", "vlm-best", clients=4, pause_s=0.1):
        for alias in ("vlm-fast", "vlm-best") * 2:
            world.in_state(alias, "ready", timeout_s=60)
            time.sleep(0.5)
            world.signal_worker(alias)
            time.sleep(1)
        world.control("/stop-all")
    assert world.serves("analyze")
    assert world.serves("draw")


def _standby_killed(world: World) -> None:
    wait_for(lambda: world.status()["standby"]["ready"] == 1, 60)
    (standby,) = world.sampler.known
    assert world.serves("analyze", "vlm-fast")
    wait_for(lambda: world.status()["standby"]["ready"] == 1, 60)
    (second,) = world.sampler.known - {standby, world.worker_pid("vlm-fast")}
    world.kill_process(second)
    wait_for(lambda: world.status()["standby"]["count"] == 0)
    assert world.serves("analyze", "vlm-best")


ROWS = (
    Fault(
        "kill -9 of a real worker in mid-stream",
        "The stream ends with an error event; waiting requests are served by a new process.",
        _killed_in_mid_stream,
        real=True,
    ),
    Fault(
        "kill -9 of a real worker in mid-image",
        "The request is sent once more, to a new process, and succeeds.",
        _killed_in_mid_image,
        real=True,
    ),
    Fault(
        "SIGSTOP of a real worker in mid-image",
        "It is killed after `stall_timeout_s`, and a new process generates the image.",
        _stopped_in_mid_image,
        settings={"manager.stall_timeout_s": 4},
        real=True,
    ),
    Fault(
        "clients of a real worker disconnect in mid-stream",
        "The model stops at the next token.",
        _left_in_mid_stream,
        real=True,
    ),
    Fault(
        "clients of a real worker disconnect in mid-image",
        "The model stops at the next step.",
        _left_in_mid_image,
        real=True,
    ),
    Fault(
        "200 cold requests at once for a real model",
        "One load serves all 200.",
        _200_at_once,
        real=True,
    ),
    Fault(
        "the folder of a model vanishes",
        "The loaded worker keeps serving; the next load fails and names the folder; once "
        "it is back, loads succeed.",
        _folder_vanishes,
        settings={"models.vlm-fast.path": "./vanishing"},
        real=True,
    ),
    Fault(
        "kill -9 of real workers under load, and stop-all",
        "Streams end with an error event, other requests succeed or get an error; "
        "afterwards all is served.",
        _everything_at_once,
        real=True,
    ),
    Fault(
        "kill -9 of a standby process",
        "The next load is slower; nothing else changes.",
        _standby_killed,
        settings={"manager.standby": 1},
        real=True,
    ),
)
