"""``python -m manager`` as a process: start, shutdown, and no processes left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from manager.launcher.process import ROOT
from testkit import plain
from tests.manager.conftest import FAKES, TIMEOUT_S, Bench, alive, eventually, unused_port

pytestmark = pytest.mark.process

WITH_FAKE_WORKERS = (sys.executable, str(FAKES / "manager.py"))


class Running:
    """A manager process with fake workers."""

    def __init__(self, bench: Bench, config: dict[str, Any], *arguments: str, **environ: str) -> None:
        self.bench = bench
        self.url = f"http://127.0.0.1:{config['manager']['port']}"
        file = bench.folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [*WITH_FAKE_WORKERS, "--config", str(file), *arguments],
            cwd=bench.folder,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.answers: dict[str, httpx.Response | httpx.HTTPError] = {}
        self._threads: list[threading.Thread] = []

    def up(self) -> None:
        def healthy() -> bool:
            try:
                return plain.get(f"{self.url}/health", timeout=5).status_code == 200
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.communicate()[0]
                return False

        eventually(healthy)

    def ask(self, alias: str, path: str = "echo") -> httpx.Response:
        return plain.post(f"{self.url}/workers/{alias}/{path}", timeout=TIMEOUT_S)

    def ask_in_background(self, alias: str, path: str) -> None:
        """Its response or error will be in ``answers`` under *path*."""

        def ask() -> None:
            try:
                self.answers[path] = self.ask(alias, path)
            except httpx.HTTPError as exc:
                self.answers[path] = exc

        self._threads.append(threading.Thread(target=ask))
        self._threads[-1].start()

    def all_answered(self) -> None:
        for thread in self._threads:
            thread.join()

    def end(self) -> tuple[int, str]:
        """The exit status, once it has ended, and all that it wrote."""
        text, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, text

    def living_workers(self) -> list[int]:
        return [note.pid for note in self.bench.notes("launched") if alive(note.pid)]


@contextmanager
def running(bench: Bench, config: dict[str, Any], *args: str, **environ: str) -> Iterator[Running]:
    manager = Running(bench, config, *args, **environ)
    try:
        manager.up()
        yield manager
    finally:
        manager.process.kill()
        manager.process.communicate()
        manager.all_answered()
        eventually(lambda: not manager.living_workers())


def test_kill_9_of_the_manager_leaves_no_worker_within_five_seconds(bench: Bench) -> None:
    models = {
        "a": bench.model(child=True),
        "b": bench.model(stubborn=True),
        "c": bench.model(ready_when=bench.flag),
    }
    with running(bench, bench.config(models)) as manager:
        for alias in "ab":
            assert manager.ask(alias).status_code == 200
        manager.ask_in_background("c", "echo")
        bench.noted("launched", count=3)
        assert len(manager.living_workers()) == 3
        manager.process.kill()
        eventually(lambda: not manager.living_workers(), timeout_s=5)


def test_a_signal_ends_the_manager_and_leaves_no_worker_and_it_can_be_started_again_at_once(
    bench: Bench,
) -> None:
    models = {"a": bench.model(), "b": bench.model(stubborn=True)}
    config = bench.config(models, manager={"stop_timeout_s": 0.5})
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(bench, config) as manager:
            for alias in "ab":
                assert manager.ask(alias).status_code == 200
            manager.process.send_signal(number)
            status, text = manager.end()
            assert manager.living_workers() == []
            assert status == 0
            assert "Traceback" not in text
            assert text.splitlines()[-1].endswith("manager: stopped")


def test_sigterm_finishes_open_requests_and_refuses_new_ones(bench: Bench) -> None:
    models = {"a": bench.model(), "b": bench.model(ready_when=str(bench.folder / "never"))}
    with running(bench, bench.config(models)) as manager:
        manager.ask_in_background("a", f"wait?until={bench.flag}")
        bench.noted("begin")
        manager.ask_in_background("b", "echo")
        bench.noted("launched", "b")
        manager.process.terminate()
        eventually(lambda: "echo" in manager.answers)  # refused while the other request continues
        waiting = manager.answers["echo"]
        assert isinstance(waiting, httpx.Response)
        assert waiting.status_code == 503
        assert waiting.json()["error"]["message"] == "the manager is shutting down"
        with pytest.raises(httpx.TransportError):
            manager.ask("a")
        assert manager.process.poll() is None
        bench.raise_flag()
        assert manager.end()[0] == 0
        manager.all_answered()
        answer = manager.answers[f"wait?until={bench.flag}"]
        assert isinstance(answer, httpx.Response)
        assert answer.json() == {"waited": True}
        assert manager.living_workers() == []


def test_the_drain_of_a_shutdown_is_bounded_and_cut_off_requests_get_an_error(bench: Bench) -> None:
    config = bench.config(manager={"drain_timeout_s": 0.3})
    with running(bench, config) as manager:
        manager.ask_in_background("a", f"sse?n=1&until={bench.flag}")
        bench.noted("begin")
        manager.process.terminate()
        status, _ = manager.end()
        manager.all_answered()
        (answer,) = manager.answers.values()
        assert isinstance(answer, httpx.Response)
        assert "event: error" in answer.text
        assert status == 0


def test_a_second_interrupt_does_not_wait_for_requests(bench: Bench) -> None:
    with running(bench, bench.config()) as manager:
        manager.ask_in_background("a", f"wait?until={bench.flag}")
        bench.noted("begin")
        manager.process.send_signal(signal.SIGINT)
        eventually(lambda: _refuses(manager.url))
        manager.process.send_signal(signal.SIGINT)
        status, _ = manager.end()
        assert status == 0
        assert manager.living_workers() == []


def _refuses(url: str) -> bool:
    try:
        plain.get(f"{url}/health", timeout=5)
    except httpx.TransportError:
        return True
    return False


def test_with_a_parent_pipe_it_shuts_down_when_its_parent_exits(bench: Bench) -> None:
    with running(bench, bench.config(), "--parent-pipe") as manager:
        assert manager.ask("a").status_code == 200
        assert manager.process.stdin is not None
        manager.process.stdin.close()
        manager.process.stdin = None
        assert manager.end()[0] == 0
        assert manager.living_workers() == []


def test_without_a_parent_pipe_a_closed_standard_input_is_ignored(bench: Bench) -> None:
    with running(bench, bench.config()) as manager:
        assert manager.process.stdin is not None
        manager.process.stdin.close()
        manager.process.stdin = None
        assert manager.ask("a").status_code == 200


def test_a_new_manager_serves_right_after_kill_9_of_the_old_one(bench: Bench) -> None:
    config = bench.config()
    with running(bench, config) as manager:
        assert manager.ask("a").status_code == 200
        manager.process.kill()
        manager.process.communicate()
        with running(bench, config) as successor:
            eventually(lambda: successor.ask("a").status_code == 200)


# --- failed starts --------------------------------------------------------------------------------


def outcome(*arguments: str, cwd: Path, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "manager", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_taken_port_is_one_line_with_the_cure_and_status_1(
    bench: Bench,
) -> None:
    file = bench.folder / "config.yaml"
    file.write_text(yaml.safe_dump(bench.config()))  # its port is free: the environment has precedence
    port = unused_port()
    with socket.create_server(("127.0.0.1", port)):
        status, text = outcome(cwd=bench.folder, VISION_CONFIG=str(file), MANAGER_PORT=str(port))
    assert status == 1
    (line,) = text.splitlines()
    assert f"another program has 127.0.0.1:{port}" in line
    assert "MANAGER_PORT or manager.port" in line


def test_invalid_settings_are_reported_with_status_2(bench: Bench) -> None:
    file = bench.folder / "config.yaml"
    config = bench.config()
    config["manager"]["prot"] = 1
    file.write_text(yaml.safe_dump(config))
    status, text = outcome("--config", str(file), cwd=bench.folder)
    assert status == 2
    (line,) = text.splitlines()
    assert line.startswith(f"{file}:")
    assert ": manager.prot: " in line
