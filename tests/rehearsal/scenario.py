"""The registry of scenarios, and the run of one: resources, its folder, its result."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.rehearsal.stage import Outcome, Stage
from tests.rehearsal.synthetic import HashBook


@dataclass(frozen=True, slots=True)
class Need:
    """The resources of a scenario in GB. It waits for memory; without the disk it is skipped."""

    disk: float = 2.0
    memory: float = 4.0


Scene = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    play: Scene
    need: Need


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, title: str, **need: float) -> Callable[[Scene], Scene]:
    """Register a function as the scenario *name*. *need*: the fields of ``Need``."""

    def register(play: Scene) -> Scene:
        SCENARIOS[name] = Scenario(name, title, play, Need(**need))
        return play

    return register


def play(
    chosen: Scenario, folder: Path, packages: Path, hashes: HashBook, *, keep: bool = False
) -> Outcome:
    """Run one scenario in *folder*, which is emptied before and removed afterwards."""
    outcome = Outcome(chosen.name, chosen.title)
    begun = time.monotonic()
    lacking = _lacking(chosen.need, folder.parent)
    if lacking:
        outcome.status = "SKIP"
        outcome.checks.append(("the machine has enough disk and memory", False, lacking))
        return outcome
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stage = Stage(outcome, folder, packages, hashes)
    try:
        with stage.hub:
            chosen.play(stage)
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)
        ours = next((f"{f.name}:{f.lineno}" for f in reversed(where) if "rehearsal" in f.filename), "")
        stage.check(f"it runs to its end ({ours})", False, f"{type(exc).__name__}: {str(exc)[:400]}")
    finally:
        outcome.seconds = time.monotonic() - begun
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _lacking(need: Need, folder: Path, patience_s: float = 300.0) -> str:
    """The reason why a scenario cannot run; waits for memory, which other programs may free."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < need.disk + 2:
        return f"{need.disk:.0f} GB of free disk are needed, not {free:.0f}"
    deadline = time.monotonic() + patience_s
    while (there := psutil.virtual_memory().available / 1e9) < need.memory:
        if time.monotonic() > deadline:
            return f"{need.memory:.0f} GB of free memory are needed, not {there:.0f}"
        time.sleep(5)
    return ""
