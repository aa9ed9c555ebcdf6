"""Steps: what is going to be done, as values, and the one place where they are done.

Rules: a step can be done twice; it says what it did; one that fails stops the rest with its cure, and
the same command can be given again. A folder is removed only whole and never through a link.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A command. *else_say*: it may fail, and this is said when it does."""

    title: str
    argv: tuple[str, ...]
    cure: str = ""
    else_say: str | None = None
    tries: int = 1

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Write:
    title: str
    path: Path
    text: str
    mode: int = 0o644

    def __str__(self) -> str:
        return f"write {shlex.quote(str(self.path))} (mode {self.mode:04o})"


@dataclass(frozen=True)
class Move:
    title: str
    path: Path
    to: Path

    def __str__(self) -> str:
        return shlex.join(("mv", str(self.path), str(self.to)))


@dataclass(frozen=True)
class Remove:
    """A file or a folder with all that is in it; nothing when it is not there."""

    title: str
    path: Path

    def __str__(self) -> str:
        return shlex.join(("rm", "-rf", str(self.path)))


@dataclass(frozen=True)
class Say:
    """Something to know, at its place among the steps."""

    title: str


Step = Run | Write | Move | Remove | Say


class StepFailed(Exception):
    """The message is what went wrong, and the cure."""


def perform(
    steps: Iterable[Step],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Do *steps* in their order, or only tell them; raises ``StepFailed`` at the first that fails."""
    for step in steps:
        if isinstance(step, Say):
            say(step.title)
        elif dry_run:
            say(f"would {step.title}:  {step}")
        elif isinstance(step, Run):
            say(step.title)
            _run(step, cwd, environ, say, pause)
        else:
            say(step.title)
            try:
                _change(step)
            except OSError as exc:
                raise StepFailed(f"could not {step.title}: {exc}") from exc


def _run(
    step: Run,
    cwd: Path,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    pause: Callable[[float], None],
) -> None:
    quiet = step.else_say is not None
    for attempt in range(step.tries):
        if attempt:
            pause(1.0)
        try:
            # What may fail has its own words; all else is heard.
            done = subprocess.run(step.argv, cwd=cwd, env=dict(environ), capture_output=quiet)
        except OSError as exc:
            problem = f"{step.argv[0]}: {exc.strerror}"
        else:
            if done.returncode == 0:
                return
            problem = f"`{step}` ended with status {done.returncode}"
    if step.else_say is not None:
        if step.else_say:
            say(step.else_say)
        return
    raise StepFailed(f"could not {step.title}: {problem}" + (f"; {step.cure}" if step.cure else ""))


def _change(step: Write | Move | Remove) -> None:
    if isinstance(step, Write):
        step.path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, and never readable by more than it should be.
        fresh = step.path.with_name(f"{step.path.name}.new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, step.mode)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(step.text)
        fresh.chmod(step.mode)
        fresh.replace(step.path)
    elif isinstance(step, Move):
        step.to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(step.path, step.to)
    elif step.path.is_symlink() or step.path.is_file():
        step.path.unlink()
    elif step.path.is_dir():
        shutil.rmtree(step.path)
