"""Tables and progress as text."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cli.formatting import (
    MODELS_HEAD,
    PS_HEAD,
    ProgressNote,
    comment,
    downloading,
    loading,
    model_row,
    printable,
    ps_notes,
    ps_rows,
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
from workers.image.progress import step_text

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
    def test_every_model_is_listed_unless_it_is_stopped_with_an_empty_queue(self) -> None:
        for state, queued in product(S, (0, 1)):
            rows = ps_rows(status({"a": model(state, queued=queued)}))
            assert bool(rows) == (state is not S.STOPPED or queued > 0)

    def test_a_ready_model_has_its_idle_time_and_uptime(self) -> None:
        cells = row(status({"a": model(measured_gb=1.54)}, {"a": worker()}))
        assert cells == {
            "NAME": "a", "STATE": "ready", "SIZE": "1.5 GB", "CHARGED": "2.0 GB", "OPEN": "0",
            "QUEUE": "0", "SERVED": "7", "IDLE": "5s", "UP": "1m 30s",
        }  # fmt: skip

    def test_a_model_with_open_requests_is_not_idle(self) -> None:
        cells = row(status({"a": model()}, {"a": worker(active_requests=2)}))
        assert (cells["OPEN"], cells["IDLE"]) == ("2", "-")

    def test_a_pinned_model_is_marked(self) -> None:
        assert row(status({"a": model(pinned=True)}, {"a": worker()}))["IDLE"] == "pinned"

    def test_a_loading_model_shows_its_phase(self) -> None:
        assert row(status({"a": model(S.STARTING, phase="warming up")}))["STATE"] == "warming up"
        assert row(status({"a": model(S.STARTING)}))["STATE"] == "starting"

    def test_the_error_of_a_failed_model_is_one_line_below_the_table(self) -> None:
        found = status({"a": model(S.FAILED, last_error="no\n weights"), "b": model(last_error="old")})
        assert ps_notes(found)[:-1] == ["a: no weights"]

    def test_memory_pressure_is_shown_unless_it_is_normal(self) -> None:
        assert "pressure" not in ps_notes(status({}))[-1]
        assert "memory pressure: critical" in ps_notes(status({}, pressure="critical"))[-1]

    def test_the_reason_of_the_budget_is_shown_in_one_line(self) -> None:
        notes = ps_notes(status({}, budget_reason="GPU limit: reported by Metal"))
        assert notes[-1] == "budget: GPU limit: reported by Metal"
        assert len(notes) == 2
        assert len(ps_notes(status({}))) == 1  # an older manager has no reason


def test_a_model_row_has_capabilities_and_other_names() -> None:
    flux = ModelObject(
        id="image-gen", created=1, kind="image", path="./m", names=["schnell", "flux"],
        capabilities=["generate", "edit"], memory_gb=9.55, state="ready", family="flux1-schnell",
    )  # fmt: skip
    cells = dict(zip(MODELS_HEAD, model_row(flux), strict=True))
    assert cells == {
        "NAME": "image-gen", "KIND": "flux1-schnell", "STATE": "ready", "SIZE": "9.6 GB",
        "CAN": "generate, edit", "ALSO": "schnell, flux", "PATH": "./m",
    }  # fmt: skip
    plain = flux.model_copy(update={"family": None, "names": []})
    assert (model_row(plain)[1], model_row(plain)[5]) == ("image", "-")


class TestProgress:
    @given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 50), st.integers(0, 50))
    def test_the_steps_in_a_worker_s_comment_are_parsed(
        self, image: int, images: int, steps: int, step: int
    ) -> None:
        image, step = min(image, images), min(step, steps)
        progress = ImageProgress(step=step, steps=steps, picture=image, pictures=images, eta_seconds=3)
        found = comment(step_text(progress))
        assert (found.done, found.total) == ((image - 1) * steps + step, images * steps)

    def test_the_download_in_a_gateway_s_comment_is_parsed(self) -> None:
        download = Download(done_bytes=50, total_bytes=200, eta_seconds=9)
        text = progress_of(model(S.STARTING, phase="downloading", download=download))
        assert comment(text) == ProgressNote("downloading 25 %, about 9 s", 25, 100)

    def test_other_comments_of_the_gateway_are_shown_unchanged(self) -> None:
        for state in S:
            text = progress_of(model(state, phase="loading"))
            assert comment(text) == ProgressNote(text)

    def test_a_load_is_shown_with_its_model(self) -> None:
        found = status({"a": model(S.STARTING, phase="loading"), "b": model()})
        assert waiting(found, "a") == ProgressNote("a: loading")

    def test_without_a_name_the_only_loading_model_is_shown(self) -> None:
        found = status({"a": model(S.STARTING, phase="loading"), "b": model(S.STOPPED)})
        assert waiting(found, None) == waiting(found, "another-name") == ProgressNote("a: loading")
        two = status({"a": model(S.STARTING), "b": model(S.STARTING)})
        assert waiting(two, None) is None

    def test_the_progress_of_images_is_shown_in_steps(self) -> None:
        progress = ImageProgress(kind="edit", step=2, steps=4, picture=2, pictures=3)
        found = waiting(status({"a": model(drawing=progress)}), "a")
        assert found == ProgressNote("a: generating", 6, 12)

    def test_a_model_that_is_not_loaded_waits_for_memory(self) -> None:
        for state in set(S) - {S.READY, S.STARTING}:
            assert waiting(status({"a": model(state)}), "a") == ProgressNote("a: waiting for memory")

    def test_a_download_is_shown_with_its_size_and_remaining_time(self) -> None:
        download = Download(done_bytes=1_500_000_000, total_bytes=3_000_000_000, eta_seconds=125)
        text = "downloading 1.50 of 3.00 GB, about 2m 5s"
        assert downloading(download) == ProgressNote(text, 1_500_000_000, 3_000_000_000)
        assert loading(model(S.STARTING, phase="downloading", download=download)).text == text
        assert downloading(download, "a").text == f"a: {text}"
        assert downloading(Download()) == ProgressNote("downloading")

    def test_the_size_of_a_download_is_announced(self) -> None:
        whole = Download(total_bytes=3_100_000_000)
        assert size_to_fetch(whole, "a") == "a: 3.10 GB to download"
        half = whole.model_copy(update={"done_bytes": 1_000_000_000})
        assert size_to_fetch(half, "a") == "a: 2.10 GB to download, 1.00 GB already done"
        text = to_fetch({"a": "x/y", "b": "x/z"}, 120_000_000_000, Path("/hub"))
        assert text == "to download: a (x/y), b (x/z); 120 GB free in /hub"


@given(st.text())
def test_printable_text_can_not_control_a_terminal(text: str) -> None:
    found = printable(text)
    assert not {"\x1b", "\x9b", "\r", "\a", "\b", "\u202e"} & set(found)
    assert found.count("\n") == text.count("\n")


def test_text_of_all_scripts_is_unchanged() -> None:
    text = "빨간 원\tعربى 👩\u200d🎨\n"
    assert printable(text) == text
    assert printable("\x1b[31mred\x1b[0m") == "[31mred[0m"
