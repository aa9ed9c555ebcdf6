"""``python -m workers.pull`` against a local Hub: once, resumed, checked, never onto a full disk."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.control import Download
from testkit.hub_server import HubServer, Seen, children_environ, hub, sha256
from tests.workers.conftest import MODELS
from workers.image.families import SOURCES
from workers.vlm.engine import _STARMIE

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 60
NOBODY = "http://127.0.0.1:9"
FAST = MODELS / "vlm-fast"
WEIGHTS = FAST / "model.safetensors"
SIZE = WEIGHTS.stat().st_size
ALL = sum(file.stat().st_size for file in FAST.iterdir())
# Does what it is told by lines of JSON, one after another, and tells by a line each what came of it.
CHILD = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from contracts.revisions import Revision
from workers import pull
from workers.hub import remote
from workers.hub import model_files
from workers.engine import LoadError
def locate(path, free, stop_at, revision=("main", False), newest=False, answer_s=5.0, wanted=None):
    remote.ANSWER_S, remote.PAUSES_S = answer_s, (0.01, 0.01)
    def report(phase, detail, download):
        if download.done_bytes > stop_at:
            raise LoadError("stopped while loading")
    try:
        found = model_files.locate(
            path, "painter",
            wanted=model_files.Wanted(*wanted) if wanted else model_files.Wanted(("*",)),
            report=report, free=lambda folder: free, revision=Revision(*revision), newest=newest,
        )
        print(found.newer, file=sys.stderr)
        return str(found.folder)
    except LoadError as exc:
        return str(exc)
for line in sys.stdin:
    asked = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        did = pull.main(asked) if isinstance(asked, list) else locate(**asked)
    print(json.dumps([did, out.getvalue(), err.getvalue()]), flush=True)
"""
pytestmark = pytest.mark.process


def spec(path: str, **fields: Any) -> str:
    return json.dumps({"kind": "vlm", "path": path, "port": 1, "memory_gb": 1.0, **fields})


def argv(path: str, **fields: Any) -> list[str]:
    return ["--alias", "painter", "--spec", spec(path, **fields)]


@dataclass(frozen=True)
class Ended:
    """What a pull has left: its status, its reports and the lines of its standard error."""

    status: int
    reports: list[dict[str, Any]]
    said: list[str]

    def succeeded(self) -> list[dict[str, Any]]:
        assert (self.status, self.said) == (0, [])
        return self.reports

    def failed(self) -> str:
        assert self.status == 1
        assert not any(report["phase"] == "ready" for report in self.reports)
        assert self.said[-1].startswith("load failed: ")
        return self.said[-1].removeprefix("load failed: ")


class Pull:
    """A process that pulls *path*; *home* holds its cache."""

    def __init__(self, url: str, home: Path, path: str, **fields: Any) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "workers.pull", *argv(path, **fields), "--parent-pipe"],
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

    def ended(self) -> Ended:
        # Not communicate(), which closes standard input: that means that the parent is gone.
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        with self.popen:
            reports = [json.loads(line) for line in self.popen.stdout]
            said = self.popen.stderr.read().splitlines()
            return Ended(self.popen.wait(LIMIT_S), reports, said)

    def kill(self) -> None:
        self.popen.kill()
        self.ended()


class Hub:
    """A Hub for all tests, and a child that asks it: most of a pull's time are its imports.

    Each test has repositories of its own, so that the cache, which is one, holds nothing of them.
    """

    def __init__(self, served: HubServer, home: Path) -> None:
        self.served = served
        self.home = home
        self.said = ""
        self._names = map("maker/fast{}".format, itertools.count())
        self._child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=ROOT,
            env=children_environ(served.url, home, HF_TOKEN="hf_secret"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def new(self, folder: Path = FAST) -> str:
        """The name of a new repository that serves *folder*, as the Hub serves at first."""
        name = next(self._names)
        self.served.repositories[name] = folder
        self.served.seen.clear()
        self.served.bytes_per_second = self.served.cut_after = None
        self.served.ignores_ranges = self.served.damages = self.served.silent = False
        return name

    def pull(self, path: str, **fields: Any) -> Ended:
        """A pull by the child."""
        status, out, err = self._ask(argv(path, **fields))
        return Ended(status, [json.loads(line) for line in out.splitlines()], err.splitlines())

    def located(self, path: str, *, free: int = 1 << 40, stop_at: int = 1 << 40, **how: Any) -> str:
        """Where the child finds *path*, or why it does not. ``said``: what it wrote meanwhile."""
        found: str
        found, _, self.said = self._ask({"path": path, "free": free, "stop_at": stop_at, **how})
        return found

    def process(self, path: str) -> Pull:
        """A pull by a process of its own."""
        return Pull(self.served.url, self.home, path)

    def _ask(self, what: Any) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{json.dumps(what)}\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def snapshot(self, name: str, commit: str = "") -> Path:
        return self.folder(name) / "snapshots" / (commit or self.served.commit(name))

    def partial(self, name: str, file: Path = WEIGHTS) -> Path:
        return self.folder(name) / "blobs" / f"{sha256(file)}.incomplete"

    def folder(self, name: str) -> Path:
        return self.home / "hub" / f"models--{name.replace('/', '--')}"

    def close(self) -> None:
        self._child.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub({}) as served:
        asked = Hub(served, tmp_path_factory.mktemp("home"))
        yield asked
        asked.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def same(folder: Path, other: Path) -> bool:
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return bool(names) and all(
        (folder / name).read_bytes() == (other / name).read_bytes() for name in names
    )


class TestAWholeModel:
    def test_every_file_is_fetched_once_and_the_next_pull_fetches_nothing(self, shared: Hub) -> None:
        served, name = shared.served, shared.new()
        reports = shared.process(name).ended().succeeded()
        assert same(FAST, shared.snapshot(name))
        assert len(served.downloads()) == len(list(FAST.iterdir()))
        assert reports[-1] == {"phase": "ready", "detail": "", "fetched_bytes": ALL}
        served.seen.clear()
        (ready,) = shared.pull(name).succeeded()
        assert ready == {"phase": "ready", "detail": "nothing to fetch", "fetched_bytes": 0}
        assert served.downloads() == []
        # It serves without a connection as well.
        ended = Pull(NOBODY, shared.home, name).ended()
        assert (ended.status, [report["fetched_bytes"] for report in ended.reports]) == (0, [0])
        assert "the copy on the disk is used" in ended.said[-1]

    def test_progress_grows_to_the_total(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.bytes_per_second = 5e6
        *reports, _ = shared.pull(name).succeeded()
        assert {report["phase"] for report in reports[:-1]} == {"downloading"}
        assert reports[-1]["phase"] == "verifying"
        seen = [Download.model_validate(report["download"]) for report in reports]
        done = [download.done_bytes for download in seen]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, ALL)
        assert len(set(done)) > 3
        assert {download.total_bytes for download in seen} == {ALL}
        assert all(download.bytes_per_second > 0 for download in seen[1:])
        assert "MB/s, about" in reports[len(reports) // 2]["detail"]

    def test_the_parts_of_an_image_model_are_those_that_its_engine_asks_for(self, shared: Hub) -> None:
        model = MODELS / "image-gen"
        name = shared.new(model)
        shared.pull(name, kind="image", family="flux1-schnell").succeeded()
        found = shared.snapshot(name)
        parts = {pattern.split("/")[0] for pattern in SOURCES["flux1-schnell"].files}
        assert {file.name for file in found.iterdir()} == parts
        assert all(same(model / part, found / part) for part in parts)

    def test_no_library_of_models_is_imported(self, shared: Hub) -> None:
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
        # mflux without mlx is its table of revisions, and no network.
        heavy = {"mlx", "mlx_vlm", "mlx_lm", "transformers", "torch", "numpy", "cv2"}
        assert not heavy & set(done.stderr.split())

    def test_the_token_goes_to_the_hub_and_nowhere_else(self, shared: Hub) -> None:
        shared.pull(shared.new()).succeeded()
        (weights,) = shared.served.downloads("model.safetensors")
        (config,) = shared.served.downloads("/config.json")
        assert weights.path.startswith("/cdn/")
        assert not weights.authorized
        assert config.authorized


class TestTheTokenizerOfMoondream:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bare"
        shutil.copytree(FAST, folder, ignore=shutil.ignore_patterns("tokenizer*"))
        return folder

    def test_without_it_the_pull_fails_and_says_what_is_missing(self, shared: Hub, bare: Path) -> None:
        reason = shared.pull(shared.new(bare)).failed()
        assert _STARMIE in reason
        assert reason.endswith("(the tokenizer of Moondream2)")

    def test_it_is_fetched_as_well_where_the_repository_has_none(
        self, tmp_path: Path, bare: Path
    ) -> None:
        """In a cache of its own: this repository has one name."""
        starmie = tmp_path / "starmie"
        starmie.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FAST / name, starmie)
        tokenizers = sum(file.stat().st_size for file in starmie.iterdir())
        with hub({"maker/bare": bare, _STARMIE: starmie}) as served:
            *_, ready = Pull(served.url, tmp_path, "maker/bare").ended().succeeded()
            found = tmp_path / "hub" / f"models--{_STARMIE.replace('/', '--')}" / "snapshots"
            assert same(starmie, found / served.commit(_STARMIE))
        assert ready["fetched_bytes"] == ALL  # of both
        assert tokenizers > 0


class TestABadLine:
    def test_a_connection_that_is_cut_is_taken_up_in_the_middle_of_the_file(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.cut_after = 3_000_000
        ended = shared.pull(name)
        assert same(FAST, shared.snapshot(name))
        sent = [(seen.start, seen.sent) for seen in shared.served.downloads("model.safetensors")]
        assert sent == [(0, 3_000_000), (3_000_000, SIZE - 3_000_000)]
        assert ended.reports[-1]["fetched_bytes"] == ALL
        assert "after 3000000 of" in ended.said[0]

    def test_a_killed_pull_is_gone_on_with_by_the_next_one(self, shared: Hub) -> None:
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

    def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.cut_after, shared.served.ignores_ranges = 3_000_000, True
        assert shared.pull(name).status == 0
        assert same(FAST, shared.snapshot(name))

    def test_a_damaged_file_is_refused_and_fetched_again(self, shared: Hub) -> None:
        name = shared.new()
        shared.served.damages = True
        reason = shared.pull(name).failed()
        assert reason.startswith(f"models.painter.path: {name}/model.safetensors arrived damaged")
        assert size(shared.partial(name)) == 0
        shared.served.damages = False
        shared.pull(name).succeeded()
        assert same(FAST, shared.snapshot(name))


def test_two_processes_that_want_the_same_model_fetch_it_once(shared: Hub) -> None:
    served, name = shared.served, shared.new()
    served.bytes_per_second = 2e5
    first = shared.process(name)
    eventually(lambda: size(shared.partial(name)) > 0)
    second = shared.process(name)
    # Who waits sees the progress of who fetches.
    waited: set[int] = set()
    while len(waited) < 3:
        waited.add(second.report()["download"]["done_bytes"])
    served.bytes_per_second = None
    reports = [first.ended().succeeded(), second.ended().succeeded()]
    assert same(FAST, shared.snapshot(name))
    paths = [seen.path for seen in served.downloads()]
    assert len(paths) == len(set(paths)) == len(list(FAST.iterdir()))
    assert max(waited) < ALL
    assert [said[-2]["download"]["done_bytes"] for said in reports] == [ALL, ALL]


class TestTheDisk:
    def test_a_full_one_refuses_the_download_before_the_first_byte(self, shared: Hub) -> None:
        name = shared.new()
        line = shared.located(name, free=(1 << 30) + ALL - 1)
        assert shared.served.downloads() == []
        assert line == (
            f"models.painter.path: {name} needs 7.4 MB more; only 1.1 GB are free in"
            f" {shared.home / 'hub'} (1.1 GB are kept free)"
        )

    def test_just_enough_is_enough_and_a_complete_model_needs_none(self, shared: Hub) -> None:
        name = shared.new()
        shared.located(name, free=(1 << 30) + ALL)
        assert same(FAST, shared.snapshot(name))
        assert shared.located(name, free=0) == str(shared.snapshot(name))

    def test_only_what_is_missing_needs_room(self, shared: Hub) -> None:
        name = shared.new()
        shared.partial(name).parent.mkdir(parents=True)
        shared.partial(name).write_bytes(WEIGHTS.read_bytes()[: SIZE - 1000])
        needed = ALL - SIZE + 1000
        assert "needs 36 kB more" in shared.located(name, free=(1 << 30) + needed - 1)
        shared.located(name, free=(1 << 30) + needed)
        assert same(FAST, shared.snapshot(name))


def test_a_load_that_is_stopped_ends_the_download_and_keeps_what_came(shared: Hub) -> None:
    name = shared.new()
    shared.served.bytes_per_second = 2e6
    assert shared.located(name, stop_at=500_000) == "stopped while loading"
    assert 0 < size(shared.partial(name)) < SIZE


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "GatedRepo", "{} is gated: accept its licence"),
        (401, "", "the Hugging Face Hub refuses {} (status 401)"),
        (404, "RepoNotFound", "{} is not on the Hugging Face Hub, or is private"),
    ],
)
def test_what_the_hub_refuses_is_the_reason(shared: Hub, status: int, code: str, says: str) -> None:
    name = shared.new()
    shared.served.refusals[name] = (status, code)
    reason = shared.pull(name).failed()
    assert reason.startswith(f"models.painter.path: {says.format(name)}")
    assert "HF_TOKEN" in reason


class TestAFolder:
    def test_there_is_nothing_to_fetch(self, shared: Hub) -> None:
        (ready,) = shared.pull(str(FAST)).succeeded()
        assert ready == {"phase": "ready", "detail": "nothing to fetch", "fetched_bytes": 0}

    def test_one_that_is_not_there_is_the_reason(self, shared: Hub) -> None:
        reason = shared.pull("/nowhere/at/all").failed()
        assert reason == "models.painter.path: /nowhere/at/all does not exist"


def test_a_pull_leaves_with_its_parent_and_half_a_download_serves_nobody(shared: Hub) -> None:
    name = shared.new()
    shared.served.bytes_per_second = 1e6
    pull = shared.process(name)
    eventually(lambda: size(shared.partial(name)) > 0)
    assert pull.popen.stdin is not None
    pull.popen.stdin.close()
    assert pull.ended().status == -signal.SIGTERM
    assert 0 < size(shared.partial(name)) < SIZE
    # What came is no model: without a connection it is not taken for one.
    assert "is not downloaded yet" in Pull(NOBODY, shared.home, name).ended().failed()
