"""Workers come up, fail, crash, idle and make room: real processes over real sockets."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.manager.conftest import Bench, alive, error_of, eventually

pytestmark = pytest.mark.process


def test_fifty_requests_at_once_are_one_load_and_fifty_answers(bench: Bench) -> None:
    models = {"a": bench.model(ready_when=bench.flag)}
    with bench.manager(models) as manager:
        asked = [manager.ask_in_background() for _ in range(50)]
        manager.queued(50)
        eventually(lambda: manager.model()["phase"] == "loading")
        bench.raise_flag()
        assert {request.result().status_code for request in asked} == {200}
    assert len(bench.notes("launched")) == 1


def test_an_exit_during_a_load_is_reported_with_the_worker_s_last_line(bench: Bench) -> None:
    model = bench.model(exit=1, last_words="importing\nload failed: no model.safetensors\n")
    with bench.manager({"a": model}) as manager:
        answer = manager.ask()
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (503, "load_failed")
        assert error["message"] == "a could not be loaded: no model.safetensors (exit status 1)"
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["retry-after"] == "1"
        again = manager.ask()
        assert error_of(again) == error
        assert len(bench.notes("launched")) == 1
        state = manager.model()
        assert state["status"] == "failed"
        assert "no model.safetensors" in state["last_error"]
        assert 0 < state["retry_in_seconds"] <= 1


def test_after_its_backoff_a_failed_model_is_tried_again(bench: Bench) -> None:
    model = bench.model(exit=1, exit_times=1)
    with bench.manager({"a": model}) as manager:
        assert manager.ask().status_code == 503
        eventually(lambda: manager.ask().status_code == 200)
    assert len(bench.notes("launched")) == 2


def test_an_orderly_exit_while_starting_is_a_failure_too(bench: Bench) -> None:
    with bench.manager({"a": bench.model(exit=0)}) as manager:
        answer = manager.ask()
        assert answer.status_code == 503
        assert "it ended without an error message (exit status 0)" in error_of(answer)["message"]


def test_a_worker_that_reports_a_failure_and_does_not_exit_is_stopped(bench: Bench) -> None:
    model = bench.model(says_failed=True)
    with bench.manager({"a": model}, manager={"stop_timeout_s": 0.3}) as manager:
        answer = manager.ask()
        assert "failed (weights are missing)" in error_of(answer)["message"]
        assert not alive(bench.noted("launched").pid)


def test_a_slow_start_that_makes_progress_outlasts_the_start_timeout(bench: Bench) -> None:
    phases = [["downloading", f"{percent} %", 0.15] for percent in range(0, 100, 10)]
    with bench.manager({"a": bench.model(phases=phases)}, manager={"start_timeout_s": 0.8}) as manager:
        answer = manager.ask()
        assert answer.status_code == 200
        assert int(answer.headers["x-vision-load-ms"]) > 800


@pytest.mark.parametrize("knobs", [{"stuck": True}, {"deaf": True}], ids=["stuck", "deaf"])
def test_a_start_without_progress_is_given_up_and_leaves_no_process(
    bench: Bench, knobs: dict[str, bool]
) -> None:
    model = bench.model(say="hello\n", **knobs)
    with bench.manager({"a": model}, manager={"start_timeout_s": 1.0}) as manager:
        answer = manager.ask()
        assert answer.status_code == 503
        assert "no progress for 1 s while" in error_of(answer)["message"]
        assert error_of(answer)["message"].endswith("its last line: hello")
        assert not alive(bench.noted("launched").pid)


def test_a_wrong_nonce_is_never_ready(bench: Bench) -> None:
    model = bench.model(nonce="another's")
    with bench.manager({"a": model}, manager={"start_timeout_s": 1.0}) as manager:
        answer = manager.ask()
        assert answer.status_code == 503
        assert "another process responds on its port" in error_of(answer)["message"]
        assert bench.notes("begin") == []


def test_a_port_that_is_taken_is_a_failed_load_that_says_so(bench: Bench) -> None:
    model = bench.model()
    with socket.create_server(("127.0.0.1", model["port"])), bench.manager({"a": model}) as manager:
        answer = manager.ask()
        assert answer.status_code == 503
        assert "address already in use" in error_of(answer)["message"]


def test_a_crash_is_followed_by_a_new_process_for_the_next_request(bench: Bench) -> None:
    with bench.manager() as manager:
        assert manager.ask().status_code == 200
        first = manager.pid()
        os.kill(first, signal.SIGKILL)
        manager.in_state("failed")
        assert "killed by SIGKILL" in manager.model()["last_error"]
        assert manager.ask().status_code == 200
        assert manager.pid() != first
        assert manager.model()["last_error"] == ""


def test_the_ladder_ends_with_a_kill_for_a_worker_that_ignores_sigterm(bench: Bench) -> None:
    model = bench.model(stubborn=True)
    with bench.manager({"a": model}, manager={"stop_timeout_s": 0.3}) as manager:
        assert manager.ask().status_code == 200
        pid = manager.pid()
        assert manager.post("/stop/a").status_code == 200
        assert bench.noted("ignored")
        assert not alive(pid)


def test_a_stopped_process_tree_is_killed_as_well(bench: Bench) -> None:
    with bench.manager(manager={"stop_timeout_s": 0.3}) as manager:
        assert manager.ask().status_code == 200
        pid = manager.pid()
        os.kill(pid, signal.SIGSTOP)
        assert manager.post("/stop/a").status_code == 200
        assert not alive(pid)


def test_a_child_of_a_worker_ends_with_it(bench: Bench) -> None:
    with bench.manager({"a": bench.model(child=True)}) as manager:
        assert manager.ask().status_code == 200
        child = int(bench.noted("child").detail)
        assert alive(child)
        os.kill(manager.pid(), signal.SIGKILL)
        eventually(lambda: not alive(child))


def test_an_idle_worker_is_stopped_after_its_timeout_and_not_while_it_is_busy(bench: Bench) -> None:
    with bench.manager(manager={"idle_timeout_s": 0.4}) as manager:
        request = manager.ask_in_background(path=f"wait?until={bench.flag}")
        bench.noted("begin")
        with pytest.raises(AssertionError):
            eventually(lambda: manager.state() != "ready", timeout_s=0.8)
        bench.raise_flag()
        assert request.result().status_code == 200
        manager.in_state("stopped")
        assert bench.notes("terminated")


def test_two_models_that_do_not_fit_together_take_turns(bench: Bench) -> None:
    models = {alias: bench.model(memory_gb=6) for alias in "ab"}
    with bench.manager(models) as manager:
        for alias in "abab":
            assert manager.ask(alias).status_code == 200
            workers = manager.status()["workers"]
            assert list(workers) == [alias]
            assert manager.status()["memory"]["models_loaded_gb"] == 6
        events = [(n.event, n.alias) for n in bench.notes() if n.event in ("launched", "terminated")]
    turns = [("launched", "a"), ("terminated", "a"), ("launched", "b"), ("terminated", "b")]
    assert events == [*turns, *turns][: len(events)]
    assert len(events) >= 7


def test_the_least_recently_used_of_three_makes_room(bench: Bench) -> None:
    models = {alias: bench.model(memory_gb=3) for alias in "abc"}
    with bench.manager(models) as manager:
        for alias in "abac":
            assert manager.ask(alias).status_code == 200
        assert set(manager.status()["workers"]) == {"a", "c"}


def test_a_busy_worker_is_never_evicted(bench: Bench) -> None:
    models = {alias: bench.model(memory_gb=6) for alias in "ab"}
    with bench.manager(models) as manager:
        busy = manager.ask_in_background("a", f"wait?until={bench.flag}")
        bench.noted("begin", "a")
        waiting = manager.ask_in_background("b")
        manager.queued(1, "b")
        assert (manager.state("a"), manager.state("b")) == ("ready", "stopped")
        bench.raise_flag()
        assert busy.result().json() == {"waited": True}
        assert waiting.result().status_code == 200
    events = [(n.event, n.alias) for n in bench.notes()]
    assert (
        events.index(("end", "a")) < events.index(("terminated", "a")) < events.index(("launched", "b"))
    )


def test_a_ready_alias_answers_while_another_loads(bench: Bench) -> None:
    models = {"a": bench.model(), "b": bench.model(ready_when=bench.flag)}
    with bench.manager(models) as manager:
        assert manager.ask("a").status_code == 200
        loading = manager.ask_in_background("b")
        manager.in_state("starting", "b")
        for _ in range(5):
            answer = manager.ask("a")
            assert answer.status_code == 200
            assert answer.headers["x-vision-queue-ms"] == "0"
        assert not loading.done()
        bench.raise_flag()
        assert loading.result().status_code == 200
    order = [(n.event, n.alias) for n in bench.notes() if n.event in ("end", "ready")]
    assert order == [("ready", "a"), *[("end", "a")] * 6, ("ready", "b"), ("end", "b")]


def test_a_model_that_is_declared_too_large_is_refused(bench: Bench) -> None:
    with bench.manager({"a": bench.model(memory_gb=9)}) as manager:
        answer = manager.ask()
        assert (answer.status_code, error_of(answer)["code"]) == (503, "insufficient_memory")
        assert answer.headers["x-should-retry"] == "false"


def test_the_output_of_a_worker_is_in_its_log(bench: Bench) -> None:
    model = bench.model(say="이 모델은 준비됐다\n")
    with bench.manager({"a": model}) as manager:
        assert manager.ask().status_code == 200
        log = bench.folder / "logs" / "a.log"
        eventually(lambda: "이 모델은 준비됐다\n" in log.read_text(encoding="utf-8"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk_under_the_log_stops_no_worker(bench: Bench) -> None:
    logs = bench.folder / "logs"
    logs.mkdir()
    (logs / "a.log").symlink_to("/dev/full")
    model = bench.model(say="x" * 1000 + "\n", say_times=300)  # more than a pipe holds
    with bench.manager({"a": model}) as manager:
        assert manager.ask().status_code == 200
