"""``python -m workers.pull`` against a local Hub: once, resumed, checked, never onto a full disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.control import Download
from tests.hub_server import HubServer, Seen, children_environ, hub, sha256
from tests.workers.conftest import MODELS
from workers.families import SOURCES
from workers.vlm import _STARMIE

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
FAST = MODELS / "vlm-fast"
WEIGHTS = FAST / "model.safetensors"
SIZE = WEIGHTS.stat().st_size
ALL = sum(file.stat().st_size for file in FAST.iterdir())
LOCATE = """
import json, sys
from workers import hub
from workers.engine import LoadError
free, stop_at = int(sys.argv[1]), int(sys.argv[2])
def report(phase, detail, download):
    if download.done_bytes > stop_at:
        raise LoadError("stopped while loading")
try:
    print(hub.locate(
        "maker/fast", "painter", patterns=("*",), report=report, free=lambda folder: free
    ))
except LoadError as exc:
    print(exc)
"""
pytestmark = pytest.mark.process


def spec(path: str, **fields: Any) -> str:
    return json.dumps({"kind": "vlm", "path": path, "port": 1, "memory_gb": 1.0, **fields})


class Pull:
    """A process that pulls *path*; *home* holds its cache."""

    def __init__(self, served: HubServer | str, home: Path, path: str, **fields: Any) -> None:
        self.home = home
        url = served if isinstance(served, str) else served.url
        argv = ["--alias", "painter", "--spec", spec(path, **fields), "--parent-pipe"]
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "workers.pull", *argv],
            cwd=ROOT,
            env=children_environ(url, home, HF_TOKEN="hf_secret"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def report(self) -> dict[str, Any]:
        """Its next report."""
        assert self.popen.stdout is not None
        report: dict[str, Any] = json.loads(self.popen.stdout.readline())
        return report

    def ended(self) -> tuple[int, list[dict[str, Any]], list[str]]:
        """Its status, its reports and the lines of its standard error."""
        # Not communicate(), which closes standard input: that means that the parent is gone.
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        with self.popen:
            reports = [json.loads(line) for line in self.popen.stdout]
            said = self.popen.stderr.read().splitlines()
            return self.popen.wait(LIMIT_S), reports, said

    def succeeded(self) -> list[dict[str, Any]]:
        status, reports, said = self.ended()
        assert (status, said) == (0, [])
        return reports

    def failed(self) -> str:
        status, reports, said = self.ended()
        assert status == 1
        assert not any(report["phase"] == "ready" for report in reports)
        assert said[-1].startswith("load failed: ")
        return said[-1].removeprefix("load failed: ")

    def kill(self) -> None:
        self.popen.kill()
        self.ended()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def snapshot(served: HubServer, home: Path, name: str = "maker/fast") -> Path:
    folder = f"models--{name.replace('/', '--')}"
    return home / "hub" / folder / "snapshots" / served.commit(name)


def partial(home: Path, file: Path = WEIGHTS) -> Path:
    return home / "hub" / "models--maker--fast" / "blobs" / f"{sha256(file)}.incomplete"


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def same(folder: Path, other: Path) -> bool:
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return bool(names) and all(
        (folder / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def located(
    served: HubServer, home: Path, *, free: int = 1 << 40, stop_at: int = 1 << 40
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOCATE, str(free), str(stop_at)],
        cwd=ROOT,
        env=children_environ(served.url, home),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )


class TestAWholeModel:
    def test_every_file_is_fetched_once_and_the_next_pull_fetches_nothing(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            reports = Pull(served, tmp_path, "maker/fast").succeeded()
            assert same(FAST, snapshot(served, tmp_path))
            assert len(served.downloads()) == len(list(FAST.iterdir()))
            assert reports[-1] == {"phase": "ready", "detail": "", "fetched_bytes": ALL}
            served.seen.clear()
            (ready,) = Pull(served, tmp_path, "maker/fast").succeeded()
            assert ready == {"phase": "ready", "detail": "nothing to fetch", "fetched_bytes": 0}
            assert served.downloads() == []

    def test_progress_grows_to_the_total(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.bytes_per_second = 2.5e6
            *reports, _ = Pull(served, tmp_path, "maker/fast").succeeded()
        assert {report["phase"] for report in reports} == {"downloading"}
        seen = [Download.model_validate(report["download"]) for report in reports]
        done = [download.done_bytes for download in seen]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, ALL)
        assert len(set(done)) > 3
        assert {download.total_bytes for download in seen} == {ALL}
        assert all(download.bytes_per_second > 0 for download in seen[1:])
        assert "MB/s, about" in reports[len(reports) // 2]["detail"]

    def test_the_parts_of_an_image_model_are_those_that_its_engine_asks_for(
        self, tmp_path: Path
    ) -> None:
        model = MODELS / "image-gen"
        with hub({"maker/draws": model}) as served:
            Pull(served, tmp_path, "maker/draws", kind="image", family="flux1-schnell").succeeded()
            found = snapshot(served, tmp_path, "maker/draws")
        parts = {pattern.split("/")[0] for pattern in SOURCES["flux1-schnell"].files}
        assert {file.name for file in found.iterdir()} == parts
        assert all(same(model / part, found / part) for part in parts)

    def test_no_library_of_models_is_imported(self, tmp_path: Path) -> None:
        code = (
            "import sys; from workers.pull import main; main(sys.argv[1:])\n"
            "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
        )
        image = spec("maker/fast", kind="image", family="flux1-schnell")
        with hub({"maker/fast": FAST}) as served:
            done = subprocess.run(
                [sys.executable, "-c", code, "--alias", "a", "--spec", image],
                cwd=ROOT,
                env=children_environ(served.url, tmp_path),
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=True,
            )
        # mflux without mlx is its table of revisions, and no network.
        heavy = {"mlx", "mlx_vlm", "mlx_lm", "transformers", "torch", "numpy", "cv2"}
        assert not heavy & set(done.stderr.split())

    def test_it_serves_without_a_connection_afterwards(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            Pull(served, tmp_path, "maker/fast").succeeded()
        (ready,) = Pull(served, tmp_path, "maker/fast").succeeded()
        assert ready["fetched_bytes"] == 0

    def test_the_token_goes_to_the_hub_and_nowhere_else(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            Pull(served, tmp_path, "maker/fast").succeeded()
            (weights,) = served.downloads("model.safetensors")
            (config,) = served.downloads("/config.json")
        assert weights.path.startswith("/cdn/")
        assert not weights.authorized
        assert config.authorized


class TestTheTokenizerOfMoondream:
    def test_it_is_fetched_as_well_where_the_repository_has_none(self, tmp_path: Path) -> None:
        bare, starmie = tmp_path / "bare", tmp_path / "starmie"
        shutil.copytree(FAST, bare, ignore=shutil.ignore_patterns("tokenizer*"))
        starmie.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FAST / name, starmie)
        tokenizers = sum(file.stat().st_size for file in starmie.iterdir())
        with hub({"maker/bare": bare, _STARMIE: starmie}) as served:
            *_, ready = Pull(served, tmp_path, "maker/bare").succeeded()
            assert same(starmie, snapshot(served, tmp_path, _STARMIE))
        assert ready["fetched_bytes"] == ALL  # of both
        assert tokenizers > 0

    def test_without_it_the_pull_fails_and_says_what_is_missing(self, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(FAST, bare, ignore=shutil.ignore_patterns("tokenizer*"))
        with hub({"maker/bare": bare}) as served:
            reason = Pull(served, tmp_path, "maker/bare").failed()
        assert _STARMIE in reason
        assert reason.endswith("(the tokenizer of Moondream2)")


class TestABadLine:
    def test_a_connection_that_is_cut_is_taken_up_in_the_middle_of_the_file(
        self, tmp_path: Path
    ) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.cut_after = 3_000_000
            _, reports, said = Pull(served, tmp_path, "maker/fast").ended()
            assert same(FAST, snapshot(served, tmp_path))
            sent = [(seen.start, seen.sent) for seen in served.downloads("model.safetensors")]
        assert sent == [(0, 3_000_000), (3_000_000, SIZE - 3_000_000)]
        assert reports[-1]["fetched_bytes"] == ALL
        assert "after 3000000 of" in said[0]

    def test_a_killed_pull_is_gone_on_with_by_the_next_one(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.bytes_per_second = 2e6
            first = Pull(served, tmp_path, "maker/fast")
            eventually(lambda: size(partial(tmp_path)) > 1_000_000)
            first.kill()
            held = size(partial(tmp_path))
            served.bytes_per_second = None
            reports = Pull(served, tmp_path, "maker/fast").succeeded()
            assert same(FAST, snapshot(served, tmp_path))
            (again,) = [seen for seen in served.downloads("model.safetensors") if seen.start]
            others = [seen.path for seen in served.downloads() if not seen.path.startswith("/cdn/")]
        assert 1_000_000 < held < SIZE
        assert again == Seen("GET", again.path, held, False, 206, SIZE - held)
        assert reports[0]["download"]["done_bytes"] == ALL - (SIZE - held)
        assert reports[-1]["fetched_bytes"] == SIZE - held
        assert len(others) == len(set(others)) == len(list(FAST.iterdir())) - 1
        assert not partial(tmp_path).exists()

    def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.cut_after, served.ignores_ranges = 3_000_000, True
            assert Pull(served, tmp_path, "maker/fast").ended()[0] == 0
            assert same(FAST, snapshot(served, tmp_path))

    def test_a_damaged_file_is_refused_and_fetched_again(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.damages = True
            reason = Pull(served, tmp_path, "maker/fast").failed()
            assert reason.startswith(
                "models.painter.path: maker/fast/model.safetensors arrived damaged"
            )
            assert size(partial(tmp_path)) == 0
            served.damages = False
            Pull(served, tmp_path, "maker/fast").succeeded()
            assert same(FAST, snapshot(served, tmp_path))

    def test_half_a_download_does_not_serve_without_a_connection(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            served.bytes_per_second = 1e6
            first = Pull(served, tmp_path, "maker/fast")
            eventually(lambda: size(partial(tmp_path)) > 0)
            first.kill()
        assert "is not downloaded yet" in Pull(served, tmp_path, "maker/fast").failed()


def test_two_processes_that_want_the_same_model_fetch_it_once(tmp_path: Path) -> None:
    with hub({"maker/fast": FAST}) as served:
        served.bytes_per_second = 2e5
        first = Pull(served, tmp_path, "maker/fast")
        eventually(lambda: size(partial(tmp_path)) > 0)
        second = Pull(served, tmp_path, "maker/fast")
        # Who waits sees the progress of who fetches.
        waited: set[int] = set()
        while len(waited) < 3:
            waited.add(second.report()["download"]["done_bytes"])
        served.bytes_per_second = None
        reports = [first.succeeded(), second.succeeded()]
        assert same(FAST, snapshot(served, tmp_path))
        paths = [seen.path for seen in served.downloads()]
    assert len(paths) == len(set(paths)) == len(list(FAST.iterdir()))
    assert max(waited) < ALL
    assert [said[-2]["download"]["done_bytes"] for said in reports] == [ALL, ALL]


class TestTheDisk:
    def test_a_full_one_refuses_the_download_before_the_first_byte(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            line = located(served, tmp_path, free=(1 << 30) + ALL - 1).stdout.strip()
            assert served.downloads() == []
        assert line == (
            "models.painter.path: maker/fast needs 7.4 MB more; only 1.1 GB are free in"
            f" {tmp_path / 'hub'} (1.1 GB are kept free)"
        )

    def test_just_enough_is_enough(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            located(served, tmp_path, free=(1 << 30) + ALL)
            assert same(FAST, snapshot(served, tmp_path))

    def test_only_what_is_missing_needs_room(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            partial(tmp_path).parent.mkdir(parents=True)
            partial(tmp_path).write_bytes(WEIGHTS.read_bytes()[: SIZE - 1000])
            needed = ALL - SIZE + 1000
            assert "needs 36 kB more" in located(served, tmp_path, free=(1 << 30) + needed - 1).stdout
            located(served, tmp_path, free=(1 << 30) + needed)
            assert same(FAST, snapshot(served, tmp_path))

    def test_a_complete_model_needs_none(self, tmp_path: Path) -> None:
        with hub({"maker/fast": FAST}) as served:
            located(served, tmp_path)
            assert located(served, tmp_path, free=0).stdout.strip() == str(snapshot(served, tmp_path))


def test_a_load_that_is_stopped_ends_the_download_and_keeps_what_came(tmp_path: Path) -> None:
    with hub({"maker/fast": FAST}) as served:
        served.bytes_per_second = 2e6
        line = located(served, tmp_path, stop_at=500_000).stdout.strip()
        assert line == "stopped while loading"
    assert 0 < size(partial(tmp_path)) < SIZE


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "GatedRepo", "maker/fast is gated: accept its licence"),
        (401, "", "the Hugging Face Hub refuses maker/fast (status 401)"),
        (404, "RepoNotFound", "maker/fast is not on the Hugging Face Hub, or is private"),
    ],
)
def test_what_the_hub_refuses_is_the_reason(tmp_path: Path, status: int, code: str, says: str) -> None:
    with hub({"maker/fast": FAST}) as served:
        served.refusals["maker/fast"] = (status, code)
        reason = Pull(served, tmp_path, "maker/fast").failed()
    assert reason.startswith(f"models.painter.path: {says}")
    assert "HF_TOKEN" in reason


class TestAFolder:
    def test_there_is_nothing_to_fetch(self, tmp_path: Path) -> None:
        (ready,) = Pull("http://127.0.0.1:9", tmp_path, str(FAST)).succeeded()
        assert ready == {"phase": "ready", "detail": "nothing to fetch", "fetched_bytes": 0}

    def test_one_that_is_not_there_is_the_reason(self, tmp_path: Path) -> None:
        reason = Pull("http://127.0.0.1:9", tmp_path, "/nowhere/at/all").failed()
        assert reason == "models.painter.path: /nowhere/at/all does not exist"


def test_a_pull_leaves_with_its_parent(tmp_path: Path) -> None:
    with hub({"maker/fast": FAST}) as served:
        served.bytes_per_second = 1e6
        pull = Pull(served, tmp_path, "maker/fast")
        eventually(lambda: size(partial(tmp_path)) > 0)
        assert pull.popen.stdin is not None
        pull.popen.stdin.close()
        assert pull.ended()[0] == -signal.SIGTERM
    assert 0 < size(partial(tmp_path)) < SIZE
