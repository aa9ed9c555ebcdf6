"""A manager on real sockets with fake workers (testkit/fakes/worker.py), which are real processes."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from contracts.settings import Settings
from manager.app import ManagerApp
from manager.launcher.process import ROOT, LocalLauncher
from testkit import plain
from testkit.servers import served

FAKES = ROOT / "testkit" / "fakes"
FAKE_WORKER = (sys.executable, str(FAKES / "worker.py"))
TIMEOUT_S = 20.0

Json = Any


class Note(NamedTuple):
    """One line of the workers' journal."""

    event: str
    alias: str
    pid: int
    detail: str


def eventually(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """The first true value of *condition*; fails after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s")


def _ports() -> Iterator[int]:
    """Ports of this test process alone: `make test` runs several concurrently."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    mine = range(20_000 + 3_000 * number, 23_000 + 3_000 * number)
    return iter(random.sample(mine, len(mine)))


_PORTS = _ports()


def unused_port() -> int:
    """A port that is free, below the ephemeral range, and never returned twice."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Bench:
    """A folder with a journal and flags, and managers with models of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.flag = str(folder / "flag")  # workers wait for it in many tests

    def raise_flag(self) -> None:
        Path(self.flag).touch()

    def model(self, *, memory_gb: float = 1, **knobs: Any) -> dict[str, Any]:
        """A model of the configuration whose worker behaves according to *knobs*."""
        path = json.dumps({"journal": str(self.journal), **knobs})
        return {"kind": "vlm", "path": path, "port": unused_port(), "memory_gb": memory_gb}

    def config(
        self, models: dict[str, dict[str, Any]] | None = None, **sections: Any
    ) -> dict[str, Any]:
        """Data for ``Settings``; by default with model ``a``."""
        image = {"kind": "image", "family": "flux1-schnell", "path": "x", "memory_gb": 1}
        models = {"a": self.model()} if models is None else models
        first = next(iter(models))
        return {
            "manager": {
                "port": unused_port(),
                "log_dir": str(self.folder / "logs"),
                "state_dir": str(self.folder / "state"),
                "idle_timeout_s": -1.0,
                "stop_timeout_s": 3.0,
                "max_wait_s": 1.0,
                **sections.pop("manager", {}),
            },
            "gateway": {"port": unused_port()},
            "memory": {
                "max_unified_memory_gb": 8.0,
                "safety_margin_gb": 0.0,
                **sections.pop("memory", {}),
            },
            "defaults": {"chat": first, "analyze": first, "generate": "image", "edit": "image"},
            "models": {**models, "image": {**image, "port": unused_port()}},
        }

    def settings(self, models: dict[str, dict[str, Any]] | None = None, **sections: Any) -> Settings:
        return Settings.model_validate(self.config(models, **sections))

    @contextmanager
    def manager(
        self, models: dict[str, dict[str, Any]] | None = None, **sections: Any
    ) -> Iterator[Manager]:
        """A running manager; processes that it leaves behind fail the test."""
        # Not measured: fake workers declare gigabytes and use none, which would be learned.
        launcher = LocalLauncher(FAKE_WORKER, measure=lambda pid: None)
        app = ManagerApp(self.settings(models, **sections), launcher=launcher)
        with served(app) as url, Manager(url, app, self) as manager:
            yield manager
        left = [note for note in self.notes("launched") if alive(note.pid)]
        assert left == [], "workers were left behind"

    def notes(self, event: str = "", alias: str = "") -> list[Note]:
        notes = []
        for line in self.journal.read_text().splitlines():
            what, who, pid, detail = line.split(" ", 3)
            notes.append(Note(what, who, int(pid), detail))
        return [n for n in notes if event in ("", n.event) and alias in ("", n.alias)]

    def noted(self, event: str, alias: str = "", count: int = 1) -> Note:
        """Wait for number *count* of such notes, and return it."""
        eventually(lambda: len(self.notes(event, alias)) >= count)
        return self.notes(event, alias)[count - 1]


class Manager:
    """A client's view of a running manager."""

    def __init__(self, url: str, app: ManagerApp, bench: Bench) -> None:
        self.url = url
        self.app = app
        self.bench = bench
        self.http = plain.Client(
            base_url=url, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None), trust_env=False
        )
        self._threads = ThreadPoolExecutor(64)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.http.close()

    def ask(self, alias: str = "a", path: str = "echo", **kwargs: Any) -> httpx.Response:
        """A request that is proxied."""
        return self.http.post(f"/workers/{alias}/{path}", **kwargs)

    def ask_in_background(
        self, alias: str = "a", path: str = "echo", **kwargs: Any
    ) -> Future[httpx.Response]:
        return self._threads.submit(self.ask, alias, path, **kwargs)

    def post(self, path: str) -> httpx.Response:
        return self.http.post(path)

    def post_in_background(self, path: str) -> Future[httpx.Response]:
        return self._threads.submit(self.http.post, path)

    def status(self) -> Json:
        return self.http.get("/status").json()

    def model(self, alias: str = "a") -> Json:
        return self.status()["models"][alias]

    def state(self, alias: str = "a") -> str:
        return str(self.model(alias)["status"])

    def in_state(self, state: str, alias: str = "a") -> None:
        """Wait until *alias* is in *state*."""
        eventually(lambda: self.state(alias) == state)

    def queued(self, count: int, alias: str = "a") -> None:
        """Wait until *count* requests wait for *alias*."""
        eventually(lambda: self.model(alias)["queued"] == count)

    def open_requests(self, alias: str = "a") -> int:
        return int(self.status()["workers"][alias]["active_requests"])

    def pid(self, alias: str = "a") -> int:
        return int(self.status()["workers"][alias]["pid"])


def error_of(response: httpx.Response) -> Json:
    error = response.json()["error"]
    assert error["source"] == "manager"
    return error


@pytest.fixture
def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)  # a failing test shows the transitions
    return Bench(tmp_path)
