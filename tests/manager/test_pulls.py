"""Pulls, with real processes: short scripts, and the real one against a local Hub."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.control import Download
from contracts.errors import LoadFailed, Unavailable
from contracts.settings.models import VlmSettings
from manager.launcher.process import Handle, LaunchFailed, LaunchSpec, Output
from manager.launcher.pulls import Launch, PullLauncher, PullOutcome, Pulls, read_report
from testkit.hub_server import children_environ, hub
from tests.manager.conftest import alive, eventually

pytestmark = pytest.mark.process

FAST = Path(__file__).resolve().parents[2] / "demo" / "models" / "vlm-fast"
MODEL = VlmSettings(kind="vlm", path="maker/fast", port=1, memory_gb=1.0)
PID = "import os, sys, time; open(sys.argv[0] + '.pid', 'a').write(f'{os.getpid()}\\n')\n"
HALF = (
    'print(\'{"phase": "downloading", "detail": "1 of 2 GB",'
    ' "download": {"done_bytes": 1, "total_bytes": 2}}\', flush=True)\n'
)
READY = 'print(\'{"phase": "ready", "detail": "", "fetched_bytes": 7}\')\n'
UNTIL_RELEASED = (
    "import pathlib\nwhile not pathlib.Path(sys.argv[0] + '.go').exists(): time.sleep(0.01)\n"
)
FOREVER = "time.sleep(600)\n"


class Script:
    """Stands for ``workers.pull``; records the pid of each process."""

    def __init__(self, folder: Path, code: str) -> None:
        self._file = folder / "pull.py"
        self._file.write_text(PID + code)

    @property
    def launch(self) -> Launch:
        return PullLauncher((sys.executable, str(self._file))).launch

    @property
    def pids(self) -> list[int]:
        noted = Path(f"{self._file}.pid")
        return [int(pid) for pid in noted.read_text().split()] if noted.exists() else []

    def go(self) -> None:
        Path(f"{self._file}.go").touch()


def played(pulls: Callable[[], Pulls], play: Callable[[Pulls], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        made = pulls()
        try:
            await asyncio.wait_for(play(made), 30)
        finally:
            await made.close()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition)


def test_a_pull_reports_its_progress_and_its_result(tmp_path: Path) -> None:
    script = Script(tmp_path, HALF + UNTIL_RELEASED + READY)
    changes: list[tuple[str, Download | None]] = []

    async def play(pulls: Pulls) -> None:
        task = asyncio.create_task(pulls.pull("a", MODEL))
        await asyncio.sleep(0)
        assert pulls.progress("a") == Download()  # no report yet
        await until(lambda: pulls.progress("a") == Download(done_bytes=1, total_bytes=2))
        assert pulls.progress("b") is None
        script.go()
        outcome = await task
        assert outcome == PullOutcome("a", 7, outcome.seconds)
        assert pulls.progress("a") is None
        await asyncio.sleep(0)
        assert changes == [("a", Download(done_bytes=1, total_bytes=2)), ("a", None)]

    played(lambda: Pulls(script.launch, on_change=lambda *change: changes.append(change)), play)


def test_later_requests_join_the_pull(tmp_path: Path) -> None:
    script = Script(tmp_path, UNTIL_RELEASED + READY)

    async def play(pulls: Pulls) -> None:
        tasks = [asyncio.create_task(pulls.pull("a", MODEL)) for _ in range(5)]
        await until(lambda: bool(script.pids))
        script.go()
        assert {outcome.fetched_bytes for outcome in await asyncio.gather(*tasks)} == {7}
        assert len(script.pids) == 1
        await pulls.pull("a", MODEL)
        assert len(script.pids) == 2

    played(lambda: Pulls(script.launch), play)


def test_an_update_delays_no_load_and_a_pull_joins_it(tmp_path: Path) -> None:
    script = Script(tmp_path, HALF + UNTIL_RELEASED + READY)
    changes: list[Download | None] = []

    async def play(pulls: Pulls) -> None:
        pulls.update("a", MODEL)
        pulls.update("a", MODEL)
        await until(lambda: bool(script.pids))
        await asyncio.sleep(0.1)
        assert pulls.progress("a") is None
        assert pulls.fetched_at("a") == float("-inf")
        assert changes == []
        task = asyncio.create_task(pulls.pull("a", MODEL))
        await until(lambda: pulls.progress("a") == Download(done_bytes=1, total_bytes=2))
        assert pulls.fetched_at("a") > 0
        script.go()
        assert (await task).fetched_bytes == 7
        assert len(script.pids) == 1

    played(lambda: Pulls(script.launch, on_change=lambda _, download: changes.append(download)), play)


def test_a_pull_records_when_bytes_last_arrived(tmp_path: Path) -> None:
    script = Script(tmp_path, HALF * 5 + UNTIL_RELEASED + READY)
    now = 100.0

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    async def play(pulls: Pulls) -> None:
        assert pulls.fetched_at("a") == float("-inf")
        task = asyncio.create_task(pulls.pull("a", MODEL))
        await until(lambda: pulls.progress("a") == Download(done_bytes=1, total_bytes=2))
        await asyncio.sleep(0.1)
        assert pulls.fetched_at("a") == 102  # the first of five equal lines
        script.go()
        await task

    played(lambda: Pulls(script.launch, clock=clock), play)


def test_aliases_are_pulled_at_the_same_time(tmp_path: Path) -> None:
    script = Script(tmp_path, UNTIL_RELEASED + READY)

    async def play(pulls: Pulls) -> None:
        tasks = [asyncio.create_task(pulls.pull(alias, MODEL)) for alias in ("a", "b")]
        await until(lambda: len(script.pids) == 2)
        script.go()
        assert [outcome.alias for outcome in await asyncio.gather(*tasks)] == ["a", "b"]

    played(lambda: Pulls(script.launch), play)


def test_a_client_that_leaves_does_not_stop_the_pull(tmp_path: Path) -> None:
    script = Script(tmp_path, UNTIL_RELEASED + READY)

    async def play(pulls: Pulls) -> None:
        first = asyncio.create_task(pulls.pull("a", MODEL))
        await until(lambda: bool(script.pids))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(pulls.pull("a", MODEL))
        await asyncio.sleep(0)
        script.go()
        assert (await second).fetched_bytes == 7
        assert len(script.pids) == 1

    played(lambda: Pulls(script.launch), play)


FAILS = "sys.exit('a warning\\nload failed: models.a.path: maker/fast is gated')\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (FAILS, "models.a.path: maker/fast is gated"),
        ("raise KeyError('x')\n", "the download of a ended (exit status 1): KeyError: 'x'"),
        ("os.kill(os.getpid(), 9)\n", "the download of a ended (killed by SIGKILL)"),
        ("pass\n", "the download of a ended (exit status 0)"),
    ],
)
def test_a_pull_that_fails_says_why(tmp_path: Path, code: str, reason: str) -> None:
    script = Script(tmp_path, HALF + code)

    async def play(pulls: Pulls) -> None:
        with pytest.raises(LoadFailed) as failed:
            await pulls.pull("a", MODEL)
        assert failed.value.message == reason
        assert pulls.progress("a") is None

    played(lambda: Pulls(script.launch), play)


def test_a_pull_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    script = Script(tmp_path, "if not os.path.exists(sys.argv[0] + '.go'): " + FAILS + READY)

    async def play(pulls: Pulls) -> None:
        with pytest.raises(LoadFailed):
            await pulls.pull("a", MODEL)
        script.go()
        assert (await pulls.pull("a", MODEL)).fetched_bytes == 7

    played(lambda: Pulls(script.launch), play)


def test_a_failed_pull_without_a_waiting_client_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(tmp_path, UNTIL_RELEASED + FAILS)

    async def play(pulls: Pulls) -> None:
        task = asyncio.create_task(pulls.pull("a", MODEL))
        await until(lambda: bool(script.pids))
        task.cancel()
        script.go()
        await until(lambda: "alias=a pull failed: models.a.path: maker/fast is gated" in caplog.text)

    played(lambda: Pulls(script.launch), play)


def test_a_failed_launch_is_a_failed_pull() -> None:
    async def launch(spec: LaunchSpec, output: Output) -> Handle:
        raise LaunchFailed("no host takes it")

    async def play(pulls: Pulls) -> None:
        with pytest.raises(LoadFailed, match="no host takes it"):
            await pulls.pull("a", MODEL)

    played(lambda: Pulls(launch), play)


@pytest.mark.parametrize("stubborn", [False, True])
def test_close_ends_every_pull_and_answers_waiting_clients(tmp_path: Path, stubborn: bool) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    script = Script(tmp_path, deaf + HALF + FOREVER)

    async def play(pulls: Pulls) -> None:
        task = asyncio.create_task(pulls.pull("a", MODEL))
        await until(lambda: pulls.progress("a") == Download(done_bytes=1, total_bytes=2))
        await pulls.close()
        assert not alive(*script.pids)
        with pytest.raises(Unavailable):
            await task
        with pytest.raises(Unavailable):
            await pulls.pull("b", MODEL)
        assert len(script.pids) == 1

    played(lambda: Pulls(script.launch, term_grace_s=0.2), play)


def test_the_log_shows_start_end_and_progress_every_ten_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "manager.launcher.pulls")
    script = Script(tmp_path, HALF * 21 + READY)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # read twice when a line is due
        return now

    async def play(pulls: Pulls) -> None:
        await pulls.pull("a", MODEL)

    played(lambda: Pulls(script.launch, clock=clock), play)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "alias=a pull begins"
    assert lines[1] == "alias=a pull: 1 of 2 GB"
    assert lines[-1].startswith("alias=a pulled: 7 bytes in ")
    assert lines[2] == "alias=a pull: 1 of 2 GB"
    assert len(lines) == 4


@pytest.mark.parametrize(
    "line", ["", "load failed: x", "[1]", '{"a": 1}', '{"phase": "x", "download": 1}']
)
def test_a_line_that_is_not_a_report_is_other_output(line: str) -> None:
    assert read_report(line) is None


def test_secrets_of_the_manager_do_not_reach_a_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGER_TOKEN", "secret")
    script = Script(tmp_path, "sys.exit(str('MANAGER_TOKEN' in os.environ))\n")

    async def play(pulls: Pulls) -> None:
        with pytest.raises(LoadFailed, match="False"):
            await pulls.pull("a", MODEL)

    played(lambda: Pulls(script.launch), play)


class TestTheRealOne:
    """``python -m workers.pull``, as the manager starts it."""

    def test_a_model_is_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changes: list[Download | None] = []

        async def play(pulls: Pulls) -> None:
            outcome = await pulls.pull("a", MODEL)
            total = sum(file.stat().st_size for file in FAST.iterdir())
            assert outcome.fetched_bytes == total
            *_, last, ended = changes
            assert last is not None
            assert last.done_bytes == last.total_bytes == total
            assert ended is None

        with hub({"maker/fast": FAST}) as served:
            _use_hub(monkeypatch, served.url, tmp_path)
            played(lambda: Pulls(on_change=lambda alias, download: changes.append(download)), play)

    def test_a_refusal_by_the_hub_is_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play(pulls: Pulls) -> None:
            with pytest.raises(LoadFailed, match=r"models\.a\.path: maker/fast is gated: accept"):
                await pulls.pull("a", MODEL)

        with hub({"maker/fast": FAST}) as served:
            served.refusals["maker/fast"] = (403, "GatedRepo")
            _use_hub(monkeypatch, served.url, tmp_path)
            played(Pulls, play)

    def test_a_pull_ended_by_a_shutdown_resumes_with_the_next_manager(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def begun(pulls: Pulls) -> None:
            task = asyncio.create_task(pulls.pull("a", MODEL))
            await until(lambda: (seen := pulls.progress("a")) is not None and seen.done_bytes > 10**6)
            await pulls.close()
            with pytest.raises(Unavailable):
                await task

        async def continued(pulls: Pulls) -> None:
            fetched = (await pulls.pull("a", MODEL)).fetched_bytes
            assert 0 < fetched < sum(file.stat().st_size for file in FAST.iterdir()) - 10**6
            assert (await pulls.pull("a", MODEL)).fetched_bytes == 0

        with hub({"maker/fast": FAST}) as served:
            _use_hub(monkeypatch, served.url, tmp_path)
            served.bytes_per_second = 2e6
            played(Pulls, begun)
            served.bytes_per_second = None
            played(Pulls, continued)


def _use_hub(monkeypatch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Child processes use *url* as the Hub."""
    environ = children_environ(url, home)
    for name in [name for name in os.environ if name not in environ]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
