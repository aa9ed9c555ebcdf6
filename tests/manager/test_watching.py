"""Observation: events, logs, pulls, and the memory in the status."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.settings.base import GIB
from manager.app import ManagerApp
from manager.launcher.process import LocalLauncher
from manager.memory.peaks import peak_key
from testkit import plain
from testkit.servers import served
from tests.manager.conftest import FAKE_WORKER, Bench, Manager, error_of, eventually
from tests.manager.test_whole_process import running

pytestmark = pytest.mark.process

DEMO_MODEL = str(Path(__file__).resolve().parents[2] / "demo" / "models" / "vlm-fast")


class Stream:
    """Server-sent events, read by a thread as they arrive."""

    def __init__(self, answer: httpx.Response) -> None:
        self.events: list[tuple[str, Any]] = []
        self.ids: list[int] = []
        self.ended = False
        self._thread = threading.Thread(target=self._read, args=(answer,), daemon=True)
        self._thread.start()

    def _read(self, answer: httpx.Response) -> None:
        kind = "message"
        try:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("id: "):
                    self.ids.append(int(line[4:]))
                elif line.startswith("data: "):
                    self.events.append((kind, json.loads(line[6:])))
        except (httpx.HTTPError, httpx.StreamError):
            return  # closed by the test
        self.ended = True

    def of(self, kind: str) -> list[Any]:
        return [data for what, data in self.events if what == kind]


@contextmanager
def streaming(manager: Manager, path: str, **headers: str) -> Iterator[Stream]:
    with manager.http.stream("GET", path, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


def test_events_show_every_transition_and_the_progress_of_a_load(bench: Bench) -> None:
    phases = [["importing", "", 0.1], ["loading", "", 0.1]]
    with bench.manager({"a": bench.model(phases=phases)}) as manager:
        with streaming(manager, "/events") as stream:
            manager.ask()
            manager.post("/stop/a")
            eventually(lambda: len(stream.of("transition")) == 4)
        moves = [(t["alias"], t["from"], t["to"]) for t in stream.of("transition")]
        assert moves == [
            ("a", "stopped", "starting"),
            ("a", "starting", "ready"),
            ("a", "ready", "stopping"),
            ("a", "stopping", "stopped"),
        ]
        assert {"importing", "loading"} <= {p["phase"] for p in stream.of("progress")}


def test_a_disconnected_reader_gets_missed_events(bench: Bench) -> None:
    with bench.manager() as manager:
        with streaming(manager, "/events") as stream:
            manager.ask()
            eventually(lambda: len(stream.of("transition")) == 2)
        manager.post("/stop/a")
        last = str(stream.ids[-1])
        with streaming(manager, "/events", **{"last-event-id": last}) as again:
            eventually(lambda: len(again.of("transition")) == 2)
        assert [t["to"] for t in again.of("transition")] == ["stopping", "stopped"]


def test_logs_are_shown_and_followed_across_restarts(bench: Bench) -> None:
    with bench.manager({"a": bench.model(say="hello from a worker\n")}) as manager:
        manager.ask()
        eventually(lambda: manager.http.get("/logs/a").text == "hello from a worker\n")
        with streaming(manager, "/logs/a?follow=1") as stream:
            eventually(lambda: stream.of("message") == ["hello from a worker"])
            manager.post("/stop/a")
            manager.ask()
            eventually(lambda: stream.of("message") == ["hello from a worker"] * 2)


def test_an_invalid_request_for_logs_gets_an_error(bench: Bench) -> None:
    with bench.manager() as manager:
        for path, status, code in (
            ("/logs/nobody", 404, "model_not_found"),
            ("/logs/a?lines=0", 400, "invalid_request"),
            ("/logs/a?follow=maybe", 400, "invalid_request"),
        ):
            answer = manager.http.get(path)
            assert (answer.status_code, error_of(answer)["code"]) == (status, code), path


def test_open_streams_end_with_the_manager_and_do_not_delay_it(bench: Bench) -> None:
    with running(bench, bench.config()) as manager, plain.Client(base_url=manager.url) as http:
        events = http.stream("GET", "/events", timeout=60)
        logs = http.stream("GET", "/logs/a?follow=1", timeout=60)
        with events as first, logs as second:
            streams = [Stream(first), Stream(second)]
            manager.process.terminate()
            assert manager.end()[0] == 0
            eventually(lambda: all(stream.ended for stream in streams))


def test_a_pull_of_existing_files_downloads_and_loads_nothing(bench: Bench) -> None:
    model = {**bench.model(), "path": DEMO_MODEL}
    with bench.manager({"a": model}) as manager:
        answer = manager.post("/pull/a")
        assert answer.status_code == 200, answer.text
        assert answer.json()["fetched_bytes"] == 0
        assert manager.state() == "stopped"


def test_a_pull_that_fails_says_why(bench: Bench) -> None:
    model = {**bench.model(), "path": "/no/such/folder"}
    with bench.manager({"a": model}) as manager:
        answer = manager.post("/pull/a")
        assert answer.status_code == 503
        assert "/no/such/folder does not exist" in error_of(answer)["message"]
        assert manager.post("/pull/nobody").status_code == 404


def test_status_shows_declared_learned_measured_and_peak_memory(bench: Bench) -> None:
    settings = bench.settings({"a": bench.model(memory_gb=2, allocate_mb=64)})
    app = ManagerApp(settings, launcher=LocalLauncher(FAKE_WORKER))
    with served(app) as url, Manager(url, app, bench) as manager:
        assert manager.model()["learned_gb"] == 0
        manager.ask()
        eventually(lambda: manager.model()["learned_gb"] > 0)
        model = manager.model()
        assert model["declared_gb"] == 2
        assert 64 / 1024 < model["measured_gb"] <= model["peak_gb"] == model["learned_gb"] < 0.2
        manager.post("/stop/a")
        stopped = manager.model()
        assert (stopped["measured_gb"], stopped["peak_gb"]) == (0, 0)
        assert stopped["learned_gb"] >= model["learned_gb"]
        assert stopped["memory_gb"] == 2, "no large image was served: the declared size stays"
        assert 0 <= stopped["learned_age_seconds"] < 60
    again = ManagerApp(settings)
    learned = again.peaks.get(peak_key(settings.models["a"]))
    assert learned is not None, "learned peaks outlive the manager"
    assert 64 << 20 < learned.bytes < GIB


def test_status_and_events_show_the_progress_of_an_image(bench: Bench, tmp_path: Path) -> None:
    drawing = {"kind": "generation", "step": 2, "steps": 4, "picture": 1, "pictures": 1}
    drawing["eta_seconds"] = 12.5
    done = tmp_path / "done"
    model = bench.model(drawing=drawing, hold=str(done))
    with bench.manager({"a": model}) as manager, streaming(manager, "/events") as stream:
        answer = manager.ask_in_background("a", "v1/images/generations", json={}, timeout=30)
        eventually(lambda: manager.model()["drawing"] == drawing)
        eventually(lambda: stream.of("drawing") == [{"alias": "a", **drawing}])
        done.touch()
        assert answer.result().status_code == 200
        eventually(lambda: manager.model()["drawing"]["kind"] == "")
        eventually(lambda: [d["step"] for d in stream.of("drawing")] == [2, 0])
