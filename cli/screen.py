"""Stdout for answers, stderr for progress and errors; colours and bars only where they are seen."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from cli import terminal
from cli.failures import CommandFailed
from cli.gateway import Gateway, as_shape
from cli.phrases import ProgressNote, shown, waiting
from contracts.control import ManagerStatus

STATUS = "/v1/system/status"
_LOOK_S = 1.0
_COLORS = {"ready": "green", "failed": "red", "stopped": "dim"}


def say(text: str) -> None:
    """A line of an answer, whatever it holds."""
    sys.stdout.write(f"{shown(text)}\n")
    sys.stdout.flush()


def say_part(text: str) -> None:
    """A part of an answer that goes on."""
    sys.stdout.write(shown(text))
    sys.stdout.flush()


def say_json(value: Any, *, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something beside the answer."""
    sys.stderr.write(f"{shown(text)}\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; lines are cut by no width that is only guessed."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in head:
        grid.add_column(name, overflow="fold" if name in ("CAN", "PATH", "ALSO") else "ellipsis")
    for row in rows:
        grid.add_row(*(Text(shown(cell), style=_COLORS.get(cell, "")) for cell in row))
    console.print(grid)


def show_picture(data: bytes) -> bool:
    """Put a picture on the terminal, if it is one that shows them."""
    how = terminal.protocol(os.environ, is_terminal=sys.stdout.isatty())
    text = terminal.encoded(data, how) if how else None
    if text is None:
        return False
    sys.stdout.write(text)
    sys.stdout.flush()
    return True


class Bar:
    """One line on a terminal's stderr that tells what is waited for; elsewhere nothing."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self.looking = True  # at the status, until the answer itself has begun to tell

    def tell(self, told: ProgressNote) -> None:
        # Without a total the bar pulses, which says as much as is known.
        total = told.total or None
        self._progress.update(
            self._task, description=shown(told.text), completed=told.done, total=total
        )

    def heard(self, told: ProgressNote) -> None:
        self.looking = False
        self.tell(told)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Out of the way while something else is written."""
        self._progress.stop()
        yield
        self._progress.start()

    def end(self) -> None:
        self.looking = False
        self._progress.stop()


@contextmanager
def bar(text: str) -> Iterator[Bar]:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    progress = Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with progress:
        yield Bar(progress, progress.add_task(text, total=None))


@contextmanager
def waiting_bar(gateway: Gateway, name: str | None, text: str = "asking") -> Iterator[Bar]:
    """A bar that tells what the stack does for *name*, until the answer itself tells more."""
    done = threading.Event()

    def look(line: Bar) -> None:
        while not done.wait(_LOOK_S) and line.looking:
            try:
                status = as_shape(ManagerStatus, gateway.ask("GET", STATUS), STATUS)
            except CommandFailed:
                continue  # the request itself will tell
            told = waiting(status, name)
            if told and line.looking:
                line.tell(told)

    with bar(text) as line:
        looker = threading.Thread(target=look, args=(line,), daemon=True)
        if sys.stderr.isatty():
            looker.start()
        try:
            yield line
        finally:
            done.set()
            if looker.is_alive():
                looker.join(1)
