"""``python -m workers`` as the manager runs it, on the real demo model."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contracts.control import WorkerHealth
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, ask
from testkit.servers import free_port
from tests.workers.conftest import MODELS, vlm_settings
from workers.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.process

CAPTION = "Write a one-sentence caption for this image."


class Process:
    """``python -m workers --parent-pipe`` with *argv*, on *port*."""

    def __init__(self, argv: list[str], port: int, log: Path, **environment: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._client = httpx.Client(
            base_url=self.url, timeout=60
        )  # one for all polls: creating it is slow
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "workers", *argv, "--parent-pipe"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def logged(self, what: str, within_s: float = 5) -> list[str]:
        """The lines about *what*, which are written after the response is sent."""
        deadline = time.monotonic() + within_s
        while not (lines := [line for line in self.log if what in line]):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return lines

    def health(self) -> tuple[int, WorkerHealth] | None:
        try:
            response = self._client.get("/health", timeout=5)
        except httpx.TransportError:
            return None
        return response.status_code, WorkerHealth.model_validate(response.json())

    def ready_health(self) -> WorkerHealth:
        """The health of a ready worker."""
        response = self.health()
        assert response is not None
        assert response[0] == 200
        return response[1]

    def watch_until_ready(self) -> list[tuple[int, WorkerHealth]]:
        """Each phase of /health up to the first 200."""
        seen: list[tuple[int, WorkerHealth]] = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.popen.poll() is None:
            if response := self.health():
                if not seen or seen[-1][1].phase != response[1].phase:
                    seen.append(response)
                if response[0] == 200:
                    return seen
            time.sleep(0.02)
        raise AssertionError(f"not ready: {self.log}")

    def post(self, path: str, body: Any) -> httpx.Response:
        return self._client.post(path, json=body)

    def close(self) -> None:
        """Kill it."""
        self._client.close()
        self.popen.kill()
        if self.popen.stdin and self.popen.stdin.closed:
            self.popen.stdin = None
        self.popen.communicate()

    def exit_within(self, seconds: float) -> int:
        return self.popen.wait(seconds)


@contextmanager
def process(path: str, tmp_path: Path, **environment: str) -> Iterator[Process]:
    port = free_port()
    spec = vlm_settings(Path(path)).model_copy(update={"path": path}).model_dump_json()
    argv = ["--alias", "vlm-best", "--spec", spec, "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--nonce", "N0"]
    with ended(Process(argv, port, tmp_path / "log", **environment)) as started:
        yield started


@contextmanager
def ended(started: Process) -> Iterator[Process]:
    """Ends the process with the block."""
    try:
        yield started
    finally:
        started.close()


def endless() -> dict[str, Any]:
    """A request that makes the model repeat itself up to the limit."""
    buffer = io.BytesIO()
    Image.new("RGB", (1500, 16)).save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    parts = [{"type": "text", "text": "hm"}, {"type": "image_url", "image_url": {"url": uri}}]
    return {
        "messages": [{"role": "user", "content": parts}],
        "stream": True,
        "temperature": 0,
        "frequency_penalty": -2,
        "max_tokens": 30_000,
    }


@pytest.mark.mlx
def test_the_life_of_a_worker(tmp_path: Path) -> None:
    with process(str(MODELS / "vlm-best"), tmp_path) as worker:
        # /health responds while it imports and loads, with the nonce and its pid.
        seen = worker.watch_until_ready()
        phases = [health.phase.value for _, health in seen]
        assert phases[0] == "importing"
        assert phases[-1] == "ready"
        assert [status for status, _ in seen] == [503] * (len(seen) - 1) + [200]
        assert {(health.nonce, health.pid) for _, health in seen} == {("N0", worker.popen.pid)}

        # The answer is right, and the log has one line for it.
        response = worker.post("/v1/chat/completions", ask(RED_CIRCLE, CAPTION)).json()
        assert response["choices"][0]["message"]["content"] == RED_CIRCLE_CAPTION
        (line,) = worker.logged("/v1/chat/completions")
        assert "status=200" in line
        assert "completion_tokens=8" in line
        assert not any("Traceback" in line or "Warning" in line for line in worker.log)

        # /health reports MLX's memory and progress.
        idle = worker.ready_health()
        assert 1 << 20 < idle.device.active <= idle.device.peak
        assert idle.device.unified  # on a CPU and on a Mac
        assert (idle.jobs, idle.progress > 8) == (0, True)

        # SIGTERM during a long generation: bounded, and a clean exit.
        url = f"{worker.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=endless(), timeout=30) as stream:
            chunks = stream.iter_text()
            next(chunks)
            # /health responds while the model is busy, and shows progress.
            early = worker.ready_health()
            assert early.jobs == 1
            while worker.ready_health().progress <= early.progress:
                time.sleep(0.01)
            began = time.monotonic()
            worker.popen.send_signal(signal.SIGTERM)
            rest = "".join(chunks)
        assert worker.exit_within(5) == 0
        assert time.monotonic() - began < 4.5
        # The client gets an error, not only a closed connection.
        assert "event: error" in rest
        assert "the worker is stopping" in rest


@pytest.mark.mlx
def test_a_worker_exits_with_its_parent_even_while_it_loads(tmp_path: Path) -> None:
    with process(str(MODELS / "vlm-best"), tmp_path) as worker:
        while worker.health() is None:
            time.sleep(0.02)
        assert worker.popen.stdin
        worker.popen.stdin.close()
        assert worker.exit_within(2.5) is not None
        assert "the parent process is gone" in "\n".join(worker.log)


def test_a_failed_load_is_reported_by_health_the_last_log_line_and_the_status(
    tmp_path: Path,
) -> None:
    with process("/nowhere/at/all", tmp_path) as worker:
        failed = None
        while worker.popen.poll() is None:
            response = worker.health()
            if response and response[1].phase == "failed":
                failed = response
            time.sleep(0.05)
        assert failed is not None
        assert failed[0] == 503
        reason = "models.vlm-best.path: /nowhere/at/all does not exist"
        assert failed[1].detail == reason
        assert worker.popen.returncode == 1
        assert worker.log[-1] == f"load failed: {reason}"


def test_an_unreachable_hub_ends_the_load_at_once(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    environment = {"HF_ENDPOINT": nobody, "HF_HOME": str(tmp_path / "hf")}
    with process("maker/model-x", tmp_path, **environment) as worker:
        assert worker.exit_within(20) == 1
        assert worker.log[-1].startswith("load failed: models.vlm-best.path: maker/model-x ")
        assert "HF_TOKEN" in worker.log[-1]


def test_a_port_in_use_is_reported_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = vlm_settings(MODELS / "vlm-best").model_dump_json()
        assert main(["--alias", "x", "--spec", spec, "--port", str(port)]) == 3
    assert capfd.readouterr().err.splitlines() == [
        f"cannot listen on 127.0.0.1:{port}: another program has 127.0.0.1:{port}; stop it "
        f"(lsof -nP -iTCP:{port} -sTCP:LISTEN names it)"
    ]


def test_invalid_settings_are_reported_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    model = {"kind": "vlm", "path": "x", "port": 1, "memory_gb": 1}
    for spec, words in (
        ("{", "--spec"),
        (json.dumps({**model, "zzz": 2}), "zzz"),
        (json.dumps({"kind": "sound"}), "kind"),
    ):
        assert main(["--alias", "x", "--spec", spec]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert words in line
    assert main(["--alias", "x", "--config", str(ROOT / "config.demo.yaml")]) == 2
    assert "'x' is not one of the models" in capfd.readouterr().err
