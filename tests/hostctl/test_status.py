"""``make status``, the smoke test and ``make pull``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.control import RunningWorker, WorkerState
from contracts.settings import Settings
from contracts.settings.file import load
from hostctl import health, smoke, status, weights
from hostctl import machine as machines
from hostctl.local_stack import ROOT, LocalStack
from hostctl.machine import Machine
from hostctl.smoke import Check, SmokeTest, Wrong
from hostctl.status import StackReport, Tier, screen, span
from testkit.hub_server import hub as hub_server
from testkit.servers import free_port
from testkit.stacks import demo_config
from tests.hostctl.test_doctor import status as manager_status

SERVING = Tier("http://127.0.0.1:8100", "serving", "service")
WELL = StackReport(
    SERVING, replace(SERVING, url="http://127.0.0.1:8000", service="Docker"), manager_status()
)


def with_worker(**model: Any) -> StackReport:
    worker = RunningWorker(
        port=8001, pid=7, state=WorkerState.READY, memory_gb=1.5, uptime_seconds=3700, idle_seconds=1,
        active_requests=2, request_count=40, model_path="p", model_type="vlm",
    )  # fmt: skip
    data = manager_status(memory_gb=1.5, measured_gb=1.25, queued=3, **model)
    return replace(WELL, status={**data, "workers": {"vlm-fast": worker.model_dump(mode="json")}})


def test_the_screen_shows_the_budget_with_its_reason() -> None:
    status = manager_status()
    assert "budget:" not in screen(replace(WELL, status=status))
    status["memory"]["budget_reason"] = "GPU limit: reported by Metal"
    assert "          budget: GPU limit: reported by Metal" in screen(replace(WELL, status=status))


def test_the_screen_shows_memory_queue_uptime_and_the_last_error_of_each_model() -> None:
    lines = screen(with_worker(last_error="killed\nby SIGKILL")).splitlines()
    assert lines[0].split()[:3] == ["manager", "serving", "http://127.0.0.1:8100"]
    row = next(line for line in lines if line.startswith("vlm-fast"))
    assert " ".join(row.split()) == "vlm-fast ready 1.2 GB 1.5 GB 2 3 40 1h 1m"
    assert lines[-1].strip() == "last error: killed by SIGKILL"


def test_a_download_is_shown_with_its_progress() -> None:
    download = {"done_bytes": 1_000_000_000, "total_bytes": 4_000_000_000}
    data = manager_status(status=WorkerState.STARTING, phase="downloading", download=download)
    assert "downloading 25 % of 4.0 GB" in screen(replace(WELL, status=data))


def test_the_status_fits_on_one_screen() -> None:
    text = screen(with_worker(last_error="x" * 1000))
    assert max(map(len, text.splitlines())) <= 130
    assert len(text.splitlines()) <= 24


REPORTS = [
    (WELL, True),
    (replace(WELL, gateway=replace(SERVING, state="degraded")), False),
    (replace(WELL, manager=replace(SERVING, state="down"), status={}), False),
    (replace(WELL, status=manager_status(status=WorkerState.FAILED)), False),
    (replace(WELL, status=manager_status(status=WorkerState.STOPPED)), True),
]


def test_the_report_is_healthy_if_both_tiers_serve_and_no_worker_has_failed() -> None:
    for report, healthy in REPORTS:
        assert report.healthy is healthy
        assert json.loads(json.dumps(report.as_json()))["healthy"] is healthy


def test_without_a_manager_the_status_points_to_the_doctor() -> None:
    down = replace(SERVING, state="down", problem="refused")
    assert "make doctor" in screen(replace(WELL, manager=down, status={}))


DURATIONS = [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3661, "1h 1m"), (90000, "1d 1h")]


def test_a_duration_has_its_two_largest_units() -> None:
    for seconds, words in DURATIONS:
        assert span(seconds) == words


def nowhere(tmp_path: Path) -> Settings:
    return load(demo_config(tmp_path), {})


def test_a_tier_that_does_not_respond_is_named_with_its_url(tmp_path: Path) -> None:
    settings = nowhere(tmp_path)
    missing = health.wait(settings, timeout_s=0)
    assert len(missing) == 3
    assert f"http://127.0.0.1:{settings.manager.port}/health" in missing[0]
    (missing_gateway,) = health.wait(settings, gateway_alone=True, timeout_s=0)
    assert f"http://127.0.0.1:{settings.gateway.port}/healthz" in missing_gateway


def test_the_wait_ends_at_its_timeout(tmp_path: Path) -> None:
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += 1

    assert health.wait(nowhere(tmp_path), timeout_s=3, clock=lambda: now[0], pause=pause)
    assert now[0] == 3


def test_the_next_steps_show_the_network_address_and_warn_if_there_is_no_key(tmp_path: Path) -> None:
    config = demo_config(tmp_path, {"gateway.host": "0.0.0.0", "gateway.port": 8000})
    text = health.next_steps(load(config, {}), "192.168.1.7", tmp_path, at_boot=True)
    assert "http://192.168.1.7:8000" in text
    assert "GATEWAY_API_KEY" in text
    closed = load(config, {"GATEWAY_API_KEY": "k" * 20, "GATEWAY_HOST": "127.0.0.1"})
    text = health.next_steps(closed, "192.168.1.7", tmp_path, at_boot=True)
    assert "192.168.1.7" not in text
    assert "after a reboot" in text
    assert "when you log in" in health.next_steps(closed, "", tmp_path, at_boot=False)
    assert "GATEWAY_API_KEY" not in text


def test_models_that_are_not_downloaded_are_listed(tmp_path: Path) -> None:
    change = {"models.vlm-fast.path": "x/y"}
    settings = load(demo_config(tmp_path, change), {})
    text = health.next_steps(settings, "", tmp_path, at_boot=True)
    assert "downloads all 1 now" in text
    assert "vlm-fast  x/y" in text
    assert f"GB free in {tmp_path}" in text
    (tmp_path / "models--x--y").mkdir()
    assert "make pull" not in health.next_steps(settings, "", tmp_path, at_boot=True)


FAILURES = [Wrong("status 503: why"), httpx.ConnectError("refused"), KeyError("data"), IndexError()]


class TestSmoke:
    def failing(self, exc: Exception) -> Check:
        def call() -> str:
            raise exc

        return Check("x", call)

    def test_any_error_fails_the_check(self) -> None:
        for exc in FAILURES:
            result = smoke.run(self.failing(exc))
            assert not result.ok
            assert result.detail

    def test_without_a_stack_every_check_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert smoke.main(nowhere(tmp_path), None, images_only=False) == 1
        out = capsys.readouterr().out
        assert "0 of 18 ok" in out
        assert out.count("FAIL") == 18

    def test_the_image_test_calls_only_the_image_routes(self, tmp_path: Path) -> None:
        with SmokeTest(nowhere(tmp_path), "http://127.0.0.1:9") as test:
            checks = [check for check in test.checks(local=True) if check.images]
        assert all("/v1/images/" in check.name for check in checks)
        assert len(checks) == 5

    @pytest.mark.parametrize(("limit", "size"), [(512 * 512, "512x512"), (512 * 512 - 1, None)])
    def test_the_size_is_one_that_every_image_model_supports(
        self, limit: int, size: str | None, tmp_path: Path
    ) -> None:
        large = {
            "id": "large", "created": 1, "kind": "image", "path": "p", "names": [], "memory_gb": 1,
            "capabilities": ["generate"], "state": "ready", "max_pixels": 2048 * 2048,
        }  # fmt: skip
        listed = {"data": [large, {**large, "id": "small", "max_pixels": limit}]}

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/models":
                return httpx.Response(200, json=listed)
            assert json.loads(request.content).get("size") == size
            return httpx.Response(200, json={"data": [{"b64_json": smoke.RED_SQUARE}]})

        transport = httpx.MockTransport(answer)
        with SmokeTest(nowhere(tmp_path), "http://x", transport=transport) as test:
            check = next(check for check in test.checks(local=False) if check.images)
            assert smoke.run(check).ok


@pytest.mark.parametrize("verb", ["status", "doctor", "smoke"])
@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.process
def test_the_shell_s_settings_file_is_used_unless_services_are_installed(
    verb: str, installed: bool, tmp_path: Path
) -> None:
    config = demo_config(tmp_path / "stack")
    environ = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path),
        "VISION_CONFIG": str(config), "GATEWAY_PORT": str(free_port()),
    }  # fmt: skip
    if installed:
        place = machines.place_of(ROOT, environ)
        unit = machines.service_manager(place, environ, os.uname().sysname).file("manager")
        unit.parent.mkdir(parents=True)
        unit.touch()
    argv = [sys.executable, "-m", "hostctl", verb, *(["all"] if verb == "smoke" else [])]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert ("services use .env" in done.stderr) is installed
    if verb != "doctor":
        assert (environ["GATEWAY_PORT"] in done.stdout) is not installed


@pytest.mark.process
@pytest.mark.mlx
def test_the_smoke_test_uses_the_models_of_the_stack_and_not_those_of_this_folder(
    stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    text = (ROOT / "config.yaml").read_text()
    file.write_text(text.replace("vlm-best", "eyes").replace("image-gen", "brush"))
    here = load(file, {})
    assert smoke.main(here, stack.url, images_only=False) == 0, capsys.readouterr().out
    assert "17 of 17 ok" in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.mlx
def test_status_and_pull_work_with_a_real_stack(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"x" * 1000)
    with hub_server({"x/y": source}) as hub:
        change = {"models.vlm-best.path": "x/y"}
        config = demo_config(tmp_path / "stack", change)
        # As an owner would do it: in the .env next to the settings file.
        (config.parent / ".env").write_text(f"HF_ENDPOINT={hub.url}\nHF_HOME={tmp_path / 'models'}\n")
        with running_at(config) as settings:
            report = status.gather(settings, Machine("Linux", "x", 1, 1))
            assert report.healthy
            assert (report.manager.service, report.gateway.state) == ("not installed", "serving")
            with weights.manager_client(settings) as manager:
                fetched = weights.pull(manager, "vlm-best", lambda download: None)
                assert (fetched.fetched_bytes, fetched.problem) == (1002, "")
                assert weights.pull(manager, "vlm-fast", lambda download: None).fetched_bytes == 0
                assert "absent" in weights.pull(manager, "absent", lambda download: None).problem
    found = list((tmp_path / "models" / "hub" / "models--x--y").glob("snapshots/*/model.safetensors"))
    assert [f.stat().st_size for f in found] == [1000]


def test_a_pull_without_a_manager_fails_at_once(tmp_path: Path) -> None:
    with weights.manager_client(nowhere(tmp_path)) as manager:
        assert "make status" in weights.pull(manager, "vlm-best", lambda download: None).problem


@contextmanager
def running_at(config: Path) -> Iterator[Settings]:
    with LocalStack(config, {"PATH": "/usr/bin:/bin"}) as stack:
        stack.wait_until_ready()
        yield stack.settings
