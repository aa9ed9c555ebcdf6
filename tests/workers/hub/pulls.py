"""A local Hub, and pulls from it: in one child process for most tests, or in their own process."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.hub_server import HubServer, children_environ, sha256
from tests.workers.conftest import MODELS

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 60
NOBODY = "http://127.0.0.1:9"
FAST = MODELS / "vlm-fast"
WEIGHTS = FAST / "model.safetensors"
SIZE = WEIGHTS.stat().st_size
ALL = sum(file.stat().st_size for file in FAST.iterdir())
# Runs the calls that it reads as lines of JSON, and writes one line with the result of each.
CHILD = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from contracts.revisions import Revision
from workers import pull
from workers.hub import remote
from workers.hub import model_files
from workers.engine import LoadError
def locate(path, free, stop_at, revision=("main", False), newest=False, answer_s=5.0):
    remote.ANSWER_S, remote.PAUSES_S = answer_s, (0.01, 0.01)
    def report(phase, detail, download=None):
        print(phase.value)
        if download and download.done_bytes > stop_at:
            raise LoadError("stopped while loading")
    try:
        found = model_files.locate(
            path, "painter", wanted=model_files.FilePatterns(("*",)), report=report,
            free=lambda folder: free, revision=Revision(*revision), newest=newest,
        )
        print(found.newer, file=sys.stderr)
        return str(found.folder)
    except LoadError as exc:
        return str(exc)
for line in sys.stdin:
    call = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        result = pull.main(call) if isinstance(call, list) else locate(**call)
    print(json.dumps([result, out.getvalue(), err.getvalue()]), flush=True)
"""


def spec(path: str, **fields: Any) -> str:
    return json.dumps({"kind": "vlm", "path": path, "port": 1, "memory_gb": 1.0, **fields})


def argv(path: str, **fields: Any) -> list[str]:
    return ["--alias", "painter", "--spec", spec(path, **fields)]


@dataclass(frozen=True)
class Ended:
    """A finished pull: its status, its reports and the lines of its standard error."""

    status: int
    reports: list[dict[str, Any]]
    errors: list[str]

    def succeeded(self) -> list[dict[str, Any]]:
        assert (self.status, self.errors) == (0, [])
        return self.reports

    def failed(self) -> str:
        assert self.status == 1
        assert not any(report["phase"] == "ready" for report in self.reports)
        assert self.errors[-1].startswith("load failed: ")
        return self.errors[-1].removeprefix("load failed: ")


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
        # communicate() would close standard input, which means that the parent is gone.
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        with self.popen:
            reports = [json.loads(line) for line in self.popen.stdout]
            errors = self.popen.stderr.read().splitlines()
            return Ended(self.popen.wait(LIMIT_S), reports, errors)

    def kill(self) -> None:
        self.popen.kill()
        self.ended()


class Hub:
    """A Hub and a child process for all tests, because most of a pull's time is spent on imports.

    Each test has its own repositories, because all share one cache. ``log`` and ``phases``: what the
    child logged and reported during the last ``located``.
    """

    def __init__(self, served: HubServer, home: Path) -> None:
        self.served = served
        self.home = home
        self.log = ""
        self.phases: list[str] = []
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
        """The name of a new repository with *folder*; the Hub's faults are reset."""
        name = next(self._names)
        self.served.repositories[name] = folder
        self.served.seen.clear()
        self.served.bytes_per_second = None
        self.served.damages = self.served.silent = False
        return name

    def pull(self, path: str, **fields: Any) -> Ended:
        """A pull by the child."""
        status, out, err = self._call(argv(path, **fields))
        return Ended(status, [json.loads(line) for line in out.splitlines()], err.splitlines())

    def located(self, path: str, *, free: int = 1 << 40, stop_at: int = 1 << 40, **how: Any) -> str:
        """The folder in which the child finds *path*, or its error."""
        found: str
        found, out, self.log = self._call({"path": path, "free": free, "stop_at": stop_at, **how})
        self.phases = out.splitlines()
        return found

    def process(self, path: str) -> Pull:
        """A pull by its own process."""
        return Pull(self.served.url, self.home, path)

    def _call(self, arguments: Any) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{json.dumps(arguments)}\n")
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
