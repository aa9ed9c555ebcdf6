"""What is shown says what is the case."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.phrases import (
    MODELS_HEAD,
    PS_HEAD,
    ProgressNote,
    comment,
    downloading,
    loading,
    model_row,
    ps_notes,
    ps_rows,
    shown,
    size_to_fetch,
    to_fetch,
    waiting,
)
from contracts.control import (
    ConfigStatus,
    Download,
    ImageProgress,
    ManagerStatus,
    MemoryStatus,
    ModelStatus,
    RunningWorker,
    WorkerState,
)
from contracts.wire.models import ModelObject
from gateway.heartbeat import progress_of
from workers.image.progress import told as told_by_worker

S = WorkerState


def model(status: WorkerState = S.READY, **more: Any) -> ModelStatus:
    return ModelStatus(path="p", kind="vlm", port=1, **{"memory_gb": 2.0, "status": status, **more})


def worker(**more: Any) -> RunningWorker:
    values = {
        "port": 1, "pid": 2, "state": S.READY, "memory_gb": 2.0, "uptime_seconds": 90.0,
        "idle_seconds": 5.0, "active_requests": 0, "request_count": 7, "model_path": "p",
        "model_type": "vlm",
    }  # fmt: skip
    return RunningWorker.model_validate({**values, **more})


def status(
    models: dict[str, ModelStatus], workers: dict[str, RunningWorker] | None = None, **memory: Any
) -> ManagerStatus:
    values = {
        "total_gb": 32, "available_gb": 20, "used_gb": 12, "used_percent": 37, "usage_percent": 37,
        "budget_gb": 23, "models_loaded_gb": 2,
    }  # fmt: skip
    return ManagerStatus(
        status="ok",
        uptime_seconds=9,
        workers=workers or {},
        models=models,
        memory=MemoryStatus.model_validate({**values, **memory}),
        config=ConfigStatus(
            idle_timeout_seconds=300, max_requests_before_restart=0, safety_margin_gb=1
        ),
    )


def row(found: ManagerStatus) -> dict[str, str]:
    (only,) = ps_rows(found)
    return dict(zip(PS_HEAD, only, strict=True))


class TestPs:
    @pytest.mark.parametrize(("state", "queued"), list(product(S, (0, 1))))
    def test_whatever_is_not_at_rest_is_listed(self, state: WorkerState, queued: int) -> None:
        rows = ps_rows(status({"a": model(state, queued=queued)}))
        assert bool(rows) == (state is not S.STOPPED or queued > 0)

    def test_a_ready_one_tells_how_long_it_has_been_idle_and_up(self) -> None:
        cells = row(status({"a": model(measured_gb=1.54)}, {"a": worker()}))
        assert cells == {
            "NAME": "a", "STATE": "ready", "SIZE": "1.5 GB", "CHARGED": "2.0 GB", "OPEN": "0",
            "QUEUE": "0", "SERVED": "7", "IDLE": "5s", "UP": "1m 30s",
        }  # fmt: skip

    def test_one_at_work_is_not_idle(self) -> None:
        cells = row(status({"a": model()}, {"a": worker(active_requests=2)}))
        assert (cells["OPEN"], cells["IDLE"]) == ("2", "-")

    def test_a_pinned_one_says_so(self) -> None:
        assert row(status({"a": model(pinned=True)}, {"a": worker()}))["IDLE"] == "pinned"

    def test_a_loading_one_tells_its_phase(self) -> None:
        assert row(status({"a": model(S.STARTING, phase="warming up")}))["STATE"] == "warming up"
        assert row(status({"a": model(S.STARTING)}))["STATE"] == "starting"

    def test_why_one_has_failed_stands_below_in_one_line(self) -> None:
        found = status({"a": model(S.FAILED, last_error="no\n weights"), "b": model(last_error="old")})
        assert ps_notes(found)[:-1] == ["a: no weights"]

    def test_pressure_is_told_when_there_is_some(self) -> None:
        assert "pressure" not in ps_notes(status({}))[-1]
        assert "memory pressure: critical" in ps_notes(status({}, pressure="critical"))[-1]


def test_a_model_tells_what_it_can_and_its_other_names() -> None:
    drawn = ModelObject(
        id="image-gen", created=1, kind="image", path="./m", names=["schnell", "flux"],
        capabilities=["generate", "edit"], memory_gb=9.55, state="ready", family="flux1-schnell",
    )  # fmt: skip
    cells = dict(zip(MODELS_HEAD, model_row(drawn), strict=True))
    assert cells == {
        "NAME": "image-gen", "KIND": "flux1-schnell", "STATE": "ready", "SIZE": "9.6 GB",
        "CAN": "generate, edit", "ALSO": "schnell, flux", "PATH": "./m",
    }  # fmt: skip
    plain = drawn.model_copy(update={"family": None, "names": []})
    assert (model_row(plain)[1], model_row(plain)[5]) == ("image", "-")


class TestProgress:
    @given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 50), st.integers(0, 50))
    def test_steps_that_a_worker_tells_are_understood(
        self, picture: int, pictures: int, steps: int, step: int
    ) -> None:
        picture, step = min(picture, pictures), min(step, steps)
        drawing = ImageProgress(
            step=step, steps=steps, picture=picture, pictures=pictures, eta_seconds=3
        )
        found = comment(told_by_worker(drawing))
        assert (found.done, found.total) == ((picture - 1) * steps + step, pictures * steps)

    def test_a_download_that_the_gateway_tells_is_understood(self) -> None:
        download = Download(done_bytes=50, total_bytes=200, eta_seconds=9)
        text = progress_of(model(S.STARTING, phase="downloading", download=download))
        assert comment(text) == ProgressNote("downloading 25 %, about 9 s", 25, 100)

    @pytest.mark.parametrize("state", S)
    def test_all_else_that_the_gateway_tells_is_shown_as_it_is(self, state: WorkerState) -> None:
        text = progress_of(model(state, phase="loading"))
        assert comment(text) == ProgressNote(text)

    def test_a_load_is_told_by_the_name_of_its_model(self) -> None:
        found = status({"a": model(S.STARTING, phase="loading"), "b": model()})
        assert waiting(found, "a") == ProgressNote("a: loading")

    def test_without_a_name_the_only_load_is_it(self) -> None:
        found = status({"a": model(S.STARTING, phase="loading"), "b": model(S.STOPPED)})
        assert waiting(found, None) == waiting(found, "another-name") == ProgressNote("a: loading")
        two = status({"a": model(S.STARTING), "b": model(S.STARTING)})
        assert waiting(two, None) is None

    def test_a_drawing_is_told_by_its_steps(self) -> None:
        drawing = ImageProgress(kind="edit", step=2, steps=4, picture=2, pictures=3)
        assert waiting(status({"a": model(drawing=drawing)}), "a") == ProgressNote("a: drawing", 6, 12)

    @pytest.mark.parametrize("state", [s for s in S if s not in (S.READY, S.STARTING)])
    def test_one_that_is_not_there_yet_waits_for_memory(self, state: WorkerState) -> None:
        assert waiting(status({"a": model(state)}), "a") == ProgressNote("a: waiting for memory")

    def test_a_download_tells_how_much_and_how_long(self) -> None:
        download = Download(done_bytes=1_500_000_000, total_bytes=3_000_000_000, eta_seconds=125)
        text = "downloading 1.50 of 3.00 GB, about 2m 5s"
        assert downloading(download) == ProgressNote(text, 1_500_000_000, 3_000_000_000)
        assert loading(model(S.STARTING, phase="downloading", download=download)).text == text
        assert downloading(download, "a").text == f"a: {text}"
        assert downloading(Download()) == ProgressNote("downloading")

    def test_what_is_to_be_fetched_is_told_with_what_is_there(self) -> None:
        whole = Download(total_bytes=3_100_000_000)
        assert size_to_fetch(whole, "a") == "a: 3.10 GB to fetch"
        half = whole.model_copy(update={"done_bytes": 1_000_000_000})
        assert size_to_fetch(half, "a") == "a: 2.10 GB to fetch, 1.00 GB are there"
        text = to_fetch({"a": "x/y", "b": "x/z"}, 120_000_000_000, Path("/hub"))
        assert text == "to fetch: a (x/y), b (x/z); 120 GB are free in /hub"


@given(st.text())
def test_nothing_that_is_shown_steers_a_terminal(text: str) -> None:
    found = shown(text)
    assert not {"\x1b", "\x9b", "\r", "\a", "\b", "\u202e"} & set(found)
    assert found.count("\n") == text.count("\n")


def test_words_of_all_scripts_stay_as_they_are() -> None:
    text = "빨간 원\tعربى 👩\u200d🎨\n"
    assert shown(text) == text
    assert shown("\x1b[31mred\x1b[0m") == "[31mred[0m"
