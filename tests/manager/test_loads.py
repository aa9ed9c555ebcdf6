"""Workers load, fail, stop and are evicted: real processes over real sockets."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.manager.conftest import Bench, alive, error_of

pytestmark = pytest.mark.process


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


def test_a_worker_that_reports_a_failure_and_does_not_exit_is_stopped(bench: Bench) -> None:
    model = bench.model(says_failed=True)
    with bench.manager({"a": model}, manager={"stop_timeout_s": 0.3}) as manager:
        answer = manager.ask()
        assert "failed (weights are missing)" in error_of(answer)["message"]
        assert not alive(bench.noted("launched").pid)


@pytest.mark.parametrize("knobs", [{"stuck": True}, {"deaf": True}], ids=["stuck", "deaf"])
def test_a_start_without_progress_is_aborted_and_leaves_no_process(
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


def test_a_taken_port_is_a_failed_load_with_the_reason(bench: Bench) -> None:
    model = bench.model()
    with socket.create_server(("127.0.0.1", model["port"])), bench.manager({"a": model}) as manager:
        answer = manager.ask()
        assert answer.status_code == 503
        assert "address already in use" in error_of(answer)["message"]


def test_a_stopped_process_tree_is_killed_as_well(bench: Bench) -> None:
    with bench.manager(manager={"stop_timeout_s": 0.3}) as manager:
        assert manager.ask().status_code == 200
        pid = manager.pid()
        os.kill(pid, signal.SIGSTOP)
        assert manager.post("/stop/a").status_code == 200
        assert not alive(pid)


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
