"""Steps: planned changes as values, and the function that performs them.

Rules: a step can be repeated. Each step prints its title. A failed step stops the plan with its fix,
and the same command can be run again. Folders are removed whole, and never through a link.
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

# Between two polls: short at first, because most waits end at once.
_FIRST_POLL_S, _POLL_S = 0.1, 1.0


@dataclass(frozen=True)
class Run:
    """A command. *else_say*: the command may fail; this is printed then.

    Exit statuses in *fine* are success. With several *tries*, a status in *again* (any, if empty) is
    retried after a second. *cures* has the fixes of single statuses, *cure* that of all others. The
    output is hidden for *quiet* commands and for several tries.
    """

    title: str
    argv: tuple[str, ...]
    cure: str = ""
    else_say: str | None = None
    tries: int = 1
    fine: tuple[int, ...] = (0,)
    again: tuple[int, ...] = ()
    cures: tuple[tuple[int, str], ...] = ()
    quiet: bool = False

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Await:
    """Wait until *argv* fails; with *busy*, until it fails or none of these lines is in its output.

    *notice* is printed once, and only if there is something to wait for.
    """

    title: str
    argv: tuple[str, ...]
    notice: str
    timeout_s: float
    cure: str = ""
    busy: tuple[str, ...] = ()

    def __str__(self) -> str:
        over = f"no longer prints {' or '.join(map(repr, self.busy))}" if self.busy else "fails"
        return f"until `{shlex.join(self.argv)}` {over} (at most {self.timeout_s:.0f} s)"


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
    """Remove a file, or a folder with its content; no error if it does not exist."""

    title: str
    path: Path

    def __str__(self) -> str:
        return shlex.join(("rm", "-rf", str(self.path)))


@dataclass(frozen=True)
class Say:
    """A note to print."""

    title: str


Step = Run | Await | Write | Move | Remove | Say


class StepFailed(Exception):
    """The message names the problem and the fix."""


def perform(
    steps: Iterable[Step],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Perform *steps* in order, or only print them; raises ``StepFailed`` at the first failure."""
    for step in steps:
        if isinstance(step, Say):
            say(step.title)
        elif dry_run:
            say(f"would {step.title}:  {step}")
        elif isinstance(step, Run):
            say(step.title)
            _run(step, cwd, environ, say, pause)
        elif isinstance(step, Await):
            _await(step, cwd, environ, say, pause, clock)
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
    hidden = step.quiet or step.tries > 1 or step.else_say is not None
    problem, cure = "", step.cure
    for attempt in range(step.tries):
        if attempt:
            pause(1.0)
        try:
            done = subprocess.run(
                step.argv,
                cwd=cwd,
                env=dict(environ),
                capture_output=hidden,
                text=True,
                errors="replace",
            )
        except OSError as exc:
            problem = f"{step.argv[0]}: {exc.strerror}"
            continue
        if done.returncode in step.fine:
            return
        problem = f"`{step}` exited with status {done.returncode}"
        if first := (done.stderr or "").split("\n", 1)[0].strip():
            problem += f" ({first})"
        cure = dict(step.cures).get(done.returncode, step.cure)
        if step.again and done.returncode not in step.again:
            break
    if step.else_say is not None:
        if step.else_say:
            say(step.else_say)
        return
    raise StepFailed(f"could not {step.title}: {problem}" + (f"; {cure}" if cure else ""))


def _await(
    step: Await,
    cwd: Path,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    deadline, wait_s = clock() + step.timeout_s, _FIRST_POLL_S
    announced = False
    while not _is_over(step, cwd, environ):
        if clock() >= deadline:
            problem = f"could not {step.title}: timed out after {step.timeout_s:.0f} s"
            raise StepFailed(problem + (f"; {step.cure}" if step.cure else ""))
        if not announced:
            say(step.notice)
            announced = True
        pause(wait_s)
        wait_s = min(_POLL_S, 2 * wait_s)


def _is_over(step: Await, cwd: Path, environ: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(
            step.argv, cwd=cwd, env=dict(environ), capture_output=True, text=True, errors="replace"
        )
    except OSError as exc:
        raise StepFailed(f"could not {step.title}: {step.argv[0]}: {exc.strerror}") from exc
    if done.returncode != 0:
        return True
    lines = {line.strip() for line in done.stdout.splitlines()}
    return bool(step.busy) and not lines.intersection(step.busy)


def _change(step: Write | Move | Remove) -> None:
    if isinstance(step, Write):
        step.path.parent.mkdir(parents=True, exist_ok=True)
        # Atomic, and never readable by others than intended.
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
