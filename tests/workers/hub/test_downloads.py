"""Pulls and loads from a local Hub: downloads are resumed, checked and bounded."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.control import Download
from testkit.hub_server import Seen, children_environ, hub
from tests.workers.conftest import MODELS
from tests.workers.hub.pulls import (
    ALL,
    FAST,
    LIMIT_S,
    NOBODY,
    ROOT,
    SIZE,
    WEIGHTS,
    Hub,
    Pull,
    argv,
    eventually,
    same,
    size,
)
from workers.image.families import SOURCES
from workers.vlm.files import STARMIE

pytestmark = pytest.mark.process


class TestACompleteModel:
    def test_every_file_is_downloaded_once(self, shared: Hub) -> None:
        served, name = shared.served, shared.new()
        reports = shared.process(name).ended().succeeded()
        assert same(FAST, shared.snapshot(name))
        assert len(served.downloads()) == len(list(FAST.iterdir()))
        assert reports[-1] == {"phase": "ready", "detail": "", "fetched_bytes": ALL}
        served.seen.clear()
        (ready,) = shared.pull(name).succeeded()
        assert ready == {"phase": "ready", "detail": "nothing to fetch", "fetched_bytes": 0}
        assert served.downloads() == []
        # Without a connection, too.
        ended = Pull(NOBODY, shared.home, name).ended()
        assert (ended.status, [report["fetched_bytes"] for report in ended.reports]) == (0, [0])
        assert "using the snapshot on the disk" in ended.errors[-1]
        # A folder needs no download.
        assert shared.pull(str(FAST)).succeeded() == [ready]

    def test_progress_grows_to_the_total(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.bytes_per_second = 5e6
        *reports, _ = shared.pull(name).succeeded()
        phases = [report["phase"] for report in reports]
        assert list(dict.fromkeys(phases)) == ["downloading", "verifying"]
        assert phases == sorted(phases)  # never backwards
        seen = [Download.model_validate(report["download"]) for report in reports]
        done = [download.done_bytes for download in seen]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, ALL)
        assert len(set(done)) > 3
        assert {download.total_bytes for download in seen} == {ALL}
        assert all(download.bytes_per_second > 0 for download in seen[1:])
        assert "MB/s, about" in reports[phases.count("downloading") // 2]["detail"]

    def test_the_files_of_an_image_model_are_those_that_its_engine_downloads(self, shared: Hub) -> None:
        model = MODELS / "image-gen"
        name = shared.new(model)
        shared.pull(name, kind="image", family="flux1-schnell").succeeded()
        found = shared.snapshot(name)
        parts = {pattern.split("/")[0] for pattern in SOURCES["flux1-schnell"].files}
        assert {file.name for file in found.iterdir()} == parts
        assert all(same(model / part, found / part) for part in parts)

    def test_a_pull_imports_no_model_library(self, shared: Hub) -> None:
        code = (
            "import sys; from workers.pull import main; main(sys.argv[1:])\n"
            "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *argv(shared.new(), kind="image", family="flux1-schnell")],
            cwd=ROOT,
            env=children_environ(shared.served.url, shared.home),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        # Of mflux, only the table of revisions is imported, which needs no mlx.
        heavy = {"mlx", "mlx_vlm", "mlx_lm", "transformers", "torch", "numpy", "cv2"}
        assert not heavy & set(done.stderr.split())

    def test_the_token_goes_to_the_hub_and_nowhere_else(self, shared: Hub) -> None:
        shared.pull(shared.new()).succeeded()
        (weights,) = shared.served.downloads("model.safetensors")
        (config,) = shared.served.downloads("/config.json")
        assert weights.path.startswith("/cdn/")
        assert not weights.authorized
        assert config.authorized


class TestMoondreamTokenizer:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bare"
        shutil.copytree(FAST, folder, ignore=shutil.ignore_patterns("tokenizer*"))
        return folder

    def test_a_pull_without_it_fails_naming_it(self, shared: Hub, bare: Path) -> None:
        reason = shared.pull(shared.new(bare)).failed()
        assert STARMIE in reason
        assert reason.endswith("(Moondream2's tokenizer)")

    def test_it_is_downloaded_if_the_repository_has_none(self, tmp_path: Path, bare: Path) -> None:
        """In its own cache, because this repository's name is fixed."""
        starmie = tmp_path / "starmie"
        starmie.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FAST / name, starmie)
        tokenizers = sum(file.stat().st_size for file in starmie.iterdir())
        with hub({"maker/bare": bare, STARMIE: starmie}) as served:
            *_, ready = Pull(served.url, tmp_path, "maker/bare").ended().succeeded()
            found = tmp_path / "hub" / f"models--{STARMIE.replace('/', '--')}" / "snapshots"
            assert same(starmie, found / served.commit(STARMIE))
        assert ready["fetched_bytes"] == ALL  # of both
        assert tokenizers > 0


class TestInterruptions:
    def test_a_killed_pull_is_resumed_by_the_next_one(self, shared: Hub) -> None:
        served, name = shared.served, shared.new()
        served.bytes_per_second = 2e6
        first = shared.process(name)
        eventually(lambda: size(shared.partial(name)) > 1_000_000)
        first.kill()
        held = size(shared.partial(name))
        served.bytes_per_second = None
        reports = shared.pull(name).succeeded()
        assert same(FAST, shared.snapshot(name))
        (again,) = [seen for seen in served.downloads("model.safetensors") if seen.start]
        others = [seen.path for seen in served.downloads() if not seen.path.startswith("/cdn/")]
        assert 1_000_000 < held < SIZE
        assert again == Seen("GET", again.path, held, False, 206, SIZE - held)
        assert reports[0]["download"]["done_bytes"] == ALL - (SIZE - held)
        assert reports[-1]["fetched_bytes"] == SIZE - held
        assert len(others) == len(set(others)) == len(list(FAST.iterdir())) - 1
        assert not shared.partial(name).exists()

    def test_a_damaged_file_is_refused_and_downloaded_again(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.damages = True
        reason = shared.pull(name).failed()
        assert reason.startswith(f"models.painter.path: {name}/model.safetensors arrived damaged")
        assert size(shared.partial(name)) == 0
        shared.served.damages = False
        shared.pull(name).succeeded()
        assert same(FAST, shared.snapshot(name))


def test_two_processes_download_a_model_once(shared: Hub) -> None:
    served, name = shared.served, shared.new()
    served.bytes_per_second = 2e5
    first = shared.process(name)
    eventually(lambda: size(shared.partial(name)) > 0)
    second = shared.process(name)
    # The waiting process reports the other's progress.
    waited: set[int] = set()
    while len(waited) < 3:
        waited.add(second.report()["download"]["done_bytes"])
    served.bytes_per_second = None
    reports = [first.ended().succeeded(), second.ended().succeeded()]
    assert same(FAST, shared.snapshot(name))
    paths = [seen.path for seen in served.downloads()]
    assert len(paths) == len(set(paths)) == len(list(FAST.iterdir()))
    assert max(waited) < ALL
    assert [lines[-2]["download"]["done_bytes"] for lines in reports] == [ALL, ALL]


class TestDiskSpace:
    def test_without_space_nothing_is_downloaded(self, shared: Hub) -> None:
        name = shared.new()
        error = shared.located(name, free=(1 << 30) + ALL - 1)
        assert shared.served.downloads() == []
        assert error == (
            f"models.painter.path: {name} needs 7.4 MB more; only 1.1 GB are free in"
            f" {shared.home / 'hub'} (1.1 GB are kept free)"
        )
        # Just enough is enough, and a complete model needs none.
        shared.located(name, free=(1 << 30) + ALL)
        assert same(FAST, shared.snapshot(name))
        assert shared.located(name, free=0) == str(shared.snapshot(name))

    def test_only_missing_bytes_need_space(self, shared: Hub) -> None:
        name = shared.new()
        shared.partial(name).parent.mkdir(parents=True)
        shared.partial(name).write_bytes(WEIGHTS.read_bytes()[: SIZE - 1000])
        needed = ALL - SIZE + 1000
        assert "needs 36 kB more" in shared.located(name, free=(1 << 30) + needed - 1)
        shared.located(name, free=(1 << 30) + needed)
        assert same(FAST, shared.snapshot(name))


def test_a_stopped_load_ends_the_download_and_keeps_its_bytes(shared: Hub) -> None:
    name = shared.new()
    shared.served.bytes_per_second = 2e6
    assert shared.located(name, stop_at=500_000) == "stopped while loading"
    assert 0 < size(shared.partial(name)) < SIZE


def test_a_load_no_longer_reports_a_finished_download(shared: Hub) -> None:
    """Libraries are imported after it, for seconds, in which "315 of 315 MB" is no news."""
    name = shared.new()
    shared.located(name)
    assert shared.phases[0] == "downloading"
    assert shared.phases[-2:] == ["verifying", "loading"]
    shared.located(name)
    assert shared.phases == []


def test_a_pull_exits_with_its_parent_and_its_partial_download_is_not_used(shared: Hub) -> None:
    name = shared.new()
    shared.served.bytes_per_second = 1e6
    pull = shared.process(name)
    eventually(lambda: size(shared.partial(name)) > 0)
    assert pull.popen.stdin is not None
    pull.popen.stdin.close()
    assert pull.ended().status == -signal.SIGTERM
    assert 0 < size(shared.partial(name)) < SIZE
    # Without a connection, the partial download is not used.
    assert "is not downloaded yet" in Pull(NOBODY, shared.home, name).ended().failed()
