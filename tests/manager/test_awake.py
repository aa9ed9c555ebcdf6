"""While work is open a Mac stays awake: one ``caffeinate`` process, here a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager.app import ManagerApp
from manager.awake import LINGER_S, Awake, must_stay_awake
from manager.launcher.process import ROOT, LocalLauncher
from testkit.servers import served
from tests.manager.conftest import FAKE_WORKER, Bench, Manager, alive, eventually

pytestmark = pytest.mark.process

# As /usr/bin/caffeinate: runs until it is ended, or the process after -w has exited.
STAND_IN = """#!/bin/sh
echo "$$ $*" >> {journal}
while kill -0 "$3" 2>/dev/null; do sleep 0.02; done
"""


class Caffeinate:
    def __init__(self, folder: Path) -> None:
        self.program = folder / "caffeinate"
        self.journal = folder / "journal-of-caffeinate"
        self.journal.touch()
        self.program.write_text(STAND_IN.format(journal=self.journal))
        self.program.chmod(0o755)

    def started(self) -> list[tuple[int, str]]:
        """Pid and arguments of each that was started."""
        lines = [line.split(" ", 1) for line in self.journal.read_text().splitlines()]
        return [(int(pid), arguments) for pid, arguments in lines]

    def living(self) -> list[int]:
        return [pid for pid, _ in self.started() if alive(pid)]


@pytest.fixture
def caffeinate(tmp_path: Path) -> Caffeinate:
    return Caffeinate(tmp_path)


@pytest.fixture
def awake(caffeinate: Caffeinate) -> Iterator[Awake]:
    held = Awake(caffeinate.program, "darwin")
    yield held
    held.close()


def test_the_machine_stays_awake_during_work_and_shortly_after() -> None:
    def stays(now: float, worked_at: float | None = 0.0) -> bool:
        return must_stay_awake(busy=False, worked_at=worked_at, now=now)

    assert must_stay_awake(busy=True, worked_at=None, now=0)
    assert not stays(5, worked_at=None)
    assert [stays(now) for now in (0, LINGER_S - 1, LINGER_S, 1e6)] == [True, True, False, False]
    assert not stays(5, worked_at=100), "the clock was set back"


def test_one_process_is_held_while_work_is_open_and_none_when_idle(
    awake: Awake, caffeinate: Caffeinate
) -> None:
    awake.update(False, 0)
    assert not awake.held
    for now in range(1, 5):
        awake.update(True, now)
    eventually(caffeinate.started)
    ((pid, arguments),) = caffeinate.started()
    assert arguments == f"-i -w {os.getpid()}"
    awake.update(False, 5)
    assert alive(pid), "the next request of a conversation may follow"
    awake.update(False, 4 + LINGER_S)
    assert not alive(pid)
    awake.update(True, 60)
    eventually(lambda: len(caffeinate.started()) == 2)
    assert len(caffeinate.living()) == 1


def test_a_killed_caffeinate_is_replaced_after_a_minute(awake: Awake, caffeinate: Caffeinate) -> None:
    awake.update(True, 0)
    eventually(caffeinate.started)
    os.kill(caffeinate.started()[0][0], signal.SIGKILL)
    eventually(lambda: not awake.held)
    for now in (1, 30, 60):
        awake.update(True, now)
    assert not awake.held
    awake.update(True, 61)
    assert awake.held


def test_after_close_no_caffeinate_is_started(awake: Awake) -> None:
    awake.update(True, 0)
    awake.close()
    awake.update(True, 1)
    assert not awake.held


def test_a_missing_caffeinate_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    awake = Awake(tmp_path / "none", "darwin")
    for now in range(3):
        awake.update(True, now)
    (record,) = caplog.records
    assert "may sleep while it works" in record.getMessage()


def test_on_other_systems_nothing_is_started(caffeinate: Caffeinate) -> None:
    awake = Awake(caffeinate.program, "linux")
    awake.update(True, 0)
    assert not awake.held
    assert caffeinate.started() == []


def test_a_manager_that_is_killed_leaves_none_behind(caffeinate: Caffeinate) -> None:
    code = (
        "import sys, time; from pathlib import Path; from manager.awake import Awake\n"
        "awake = Awake(Path(sys.argv[1]), 'darwin'); awake.update(True, 0); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(caffeinate.program)], cwd=ROOT, stdout=subprocess.PIPE
    ) as manager:
        assert manager.stdout is not None
        assert manager.stdout.readline() == b"held\n"
        eventually(caffeinate.living)
        manager.kill()
    eventually(lambda: not caffeinate.living())


def test_the_manager_holds_caffeinate_during_a_request_and_ends_it(
    bench: Bench, caffeinate: Caffeinate
) -> None:
    launcher = LocalLauncher(FAKE_WORKER, measure=lambda pid: None)
    settings = bench.settings({"a": bench.model(hold=bench.flag)})
    app = ManagerApp(settings, launcher=launcher, awake=Awake(caffeinate.program, "darwin"))
    living: Callable[[], list[int]] = caffeinate.living
    with served(app) as url, Manager(url, app, bench) as manager:
        assert living() == []
        answer = manager.ask_in_background("a", "v1/chat/completions", json={"messages": []})
        eventually(lambda: len(living()) == 1)
        bench.raise_flag()
        assert answer.result().status_code == 200
    assert living() == []
