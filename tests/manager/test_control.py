"""The control routes: shapes that the dashboard reads, statuses, the token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manager.app import ManagerApp
from testkit import plain
from testkit.servers import served
from tests.manager.conftest import Bench, error_of

pytestmark = pytest.mark.process


def test_health_is_quick_and_needs_nothing(bench: Bench) -> None:
    with bench.manager({"a": bench.model(ready_when=bench.flag)}) as manager:
        manager.ask_in_background()
        manager.in_state("starting")
        answer = manager.http.get("/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"
        assert answer.json()["uptime_seconds"] > 0
        bench.raise_flag()


def test_spawn_responds_with_an_object_once_the_worker_is_ready(bench: Bench) -> None:
    with bench.manager() as manager:
        answer = manager.post("/spawn/a")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["success"], body["alias"], body["state"]) == (True, "a", "ready")
        worker = manager.status()["workers"]["a"]
        assert (body["port"], body["pid"]) == (worker["port"], worker["pid"])
        assert manager.post("/spawn/a").json()["pid"] == body["pid"]
        assert bench.notes("begin") == []


def test_stop_is_200_for_a_loaded_and_for_an_unloaded_worker(bench: Bench) -> None:
    with bench.manager() as manager:
        for was_loaded in (False, True, False):
            answer = manager.post("/stop/a")
            assert answer.status_code == 200
            assert answer.json() == {
                "success": True,
                "alias": "a",
                "was_loaded": was_loaded,
                "state": "stopped",
            }
            if not was_loaded and not bench.notes("launched"):
                manager.post("/spawn/a")
        assert len(bench.notes("terminated")) == 1


def test_stop_all_stops_all_workers_and_lists_them(bench: Bench) -> None:
    with bench.manager({alias: bench.model() for alias in "abc"}) as manager:
        assert manager.post("/stop-all").json() == {"success": True, "stopped": []}
        for alias in "ac":
            assert manager.post(f"/spawn/{alias}").status_code == 200
        assert manager.post("/stop-all").json() == {"success": True, "stopped": ["a", "c"]}
        assert manager.status()["workers"] == {}


def test_touch_is_200_and_reports_whether_it_is_loaded(bench: Bench) -> None:
    with bench.manager() as manager:
        assert manager.post("/touch/a").json() == {
            "success": True,
            "alias": "a",
            "loaded": False,
            "state": "stopped",
        }
        manager.post("/spawn/a")
        assert manager.post("/touch/a").json()["loaded"] is True
        assert manager.status()["workers"]["a"]["idle_seconds"] < 5


def test_the_status_shows_the_keep_alive_of_the_last_request(bench: Bench) -> None:
    with bench.manager() as manager:
        stays = [manager.status()["models"]["a"]["idle_timeout_seconds"]]
        for keep_alive in (90, 5.5):
            manager.post(f"/spawn/a?keep_alive={keep_alive}")
            stays.append(manager.status()["models"]["a"]["idle_timeout_seconds"])
        assert stays == [-1.0, 90.0, 5.5]


def test_an_unknown_alias_is_a_404_in_the_error_shape(bench: Bench) -> None:
    with bench.manager() as manager:
        for route in ("/spawn", "/stop", "/touch"):
            answer = manager.post(f"{route}/nobody")
            assert answer.status_code == 404
            error = error_of(answer)
            assert error["code"] == "model_not_found"
            assert error["message"] == "model 'nobody' does not exist; there are: a, image"


def test_unknown_routes_and_methods_have_the_error_shape(bench: Bench) -> None:
    with bench.manager() as manager:
        assert error_of(manager.http.get("/nowhere"))["code"] == "not_found"
        assert error_of(manager.http.get("/spawn/a"))["code"] == "method_not_allowed"


def test_a_preload_is_ready_without_a_request(bench: Bench) -> None:
    with bench.manager({"a": {**bench.model(), "preload": True}}) as manager:
        manager.in_state("ready")
    assert bench.notes("begin") == []


# --- the token ------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/status"),
    ("POST", "/spawn/a"),
    ("POST", "/stop/a"),
    ("POST", "/stop-all"),
    ("POST", "/touch/a"),
    ("POST", "/workers/a/echo"),
    ("GET", "/nowhere"),
    ("POST", "/health"),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a manager that has a token."""
    settings = Bench(tmp_path_factory.mktemp("guarded")).settings(manager={"token": "s3cret"})
    with served(ManagerApp(settings)) as url:
        yield url


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"x-manager-token": "S3CRET"}],
)
def test_without_the_token_every_route_but_health_is_a_401(
    guarded: str, headers: dict[str, str]
) -> None:
    with plain.Client(base_url=guarded) as http:
        for method, path in ROUTES:
            answer = http.request(method, path, headers=headers)
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key"), path
            assert "x-request-id" in answer.headers
        assert http.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer s3cret"},
        {"authorization": "bearer s3cret"},
        {"x-manager-token": "s3cret"},
        {"authorization": "Bearer another", "x-manager-token": "s3cret"},
    ],
)
def test_with_the_token_every_route_is_open(guarded: str, headers: dict[str, str]) -> None:
    with plain.Client(base_url=guarded, headers=headers) as http:
        assert http.get("/status").status_code == 200
        assert http.post("/stop/a").status_code == 200
        assert http.post("/workers/nobody/x").status_code == 404
