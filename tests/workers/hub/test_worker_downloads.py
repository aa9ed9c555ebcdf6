"""A worker whose model is on the Hub: it downloads, reports its progress, and serves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contracts.control import Phase, WorkerHealth
from testkit.hub_server import HubServer, children_environ, hub
from testkit.images import RED_CIRCLE, ask
from testkit.servers import free_port
from tests.workers.hub.pulls import ALL, FAST, spec

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 120
pytestmark = [pytest.mark.process, pytest.mark.mlx]


class Worker:
    def __init__(self, popen: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._popen = popen
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until_ready(self) -> list[WorkerHealth]:
        """Each change of ``/health``, up to ready."""
        seen: list[WorkerHealth] = []
        deadline = time.monotonic() + LIMIT_S
        with httpx.Client(base_url=self.url) as client:
            while not seen or seen[-1].phase is not Phase.READY:
                assert self._popen.poll() is None, self.log
                assert time.monotonic() < deadline
                time.sleep(0.02)
                try:
                    health = WorkerHealth.model_validate_json(client.get("/health").content)
                except httpx.TransportError:
                    continue
                if not seen or (health.phase, health.download) != (seen[-1].phase, seen[-1].download):
                    seen.append(health)
        return seen


@contextmanager
def worker(served: HubServer, home: Path) -> Iterator[Worker]:
    port = free_port()
    argv = ["--alias", "a", "--spec", spec("maker/fast"), "--port", str(port), "--nonce", "n"]
    log = home / "worker.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "workers", *argv, "--parent-pipe"],
            cwd=ROOT,
            env=children_environ(served.url, home),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    with popen:
        try:
            yield Worker(popen, port, log)
        finally:
            popen.kill()


def test_a_worker_downloads_its_model_and_serves_it(tmp_path: Path) -> None:
    with hub({"maker/fast": FAST}) as served:
        served.bytes_per_second = 2e6
        with worker(served, tmp_path) as loading:
            seen = loading.until_ready()
            body = ask(RED_CIRCLE, "Write a one-sentence caption for this image.", model="a")
            response = httpx.post(f"{loading.url}/v1/chat/completions", json=body, timeout=LIMIT_S)
            log = loading.log
    downloads = [health.download for health in seen if health.phase is Phase.DOWNLOADING]
    assert len(downloads) > 2
    done = [download.done_bytes for download in downloads if download is not None]
    assert done == sorted(done)
    assert {download.total_bytes for download in downloads if download is not None} == {ALL}
    assert seen[-1].download is None
    assert response.status_code == 200
    assert "circle" in response.json()["choices"][0]["message"]["content"]
    assert "downloading a: 7.4 MB into " in log
    assert "downloaded a: 7.4 MB in " in log


def test_after_a_pull_a_worker_downloads_nothing(tmp_path: Path) -> None:
    with hub({"maker/fast": FAST}) as served:
        pull = [sys.executable, "-m", "workers.pull", "--alias", "a", "--spec", spec("maker/fast")]
        subprocess.run(
            pull, cwd=ROOT, env=children_environ(served.url, tmp_path), check=True, capture_output=True
        )
        served.seen.clear()
        with worker(served, tmp_path) as loading:
            seen = loading.until_ready()
        assert served.downloads() == []
    assert not any(health.phase is Phase.DOWNLOADING for health in seen)
