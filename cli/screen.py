"""Output: results to stdout, progress and errors to stderr; colors and bars on terminals only."""

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
from cli.errors import CommandError
from cli.formatting import ProgressNote, printable, waiting
from cli.gateway import Gateway, as_shape
from contracts.control import ManagerStatus

STATUS = "/v1/system/status"
_POLL_S = 1.0
_COLORS = {"ready": "green", "failed": "red", "stopped": "dim"}


def say(text: str) -> None:
    """Print a line of the result, without control characters."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def say_part(text: str) -> None:
    """Print a part of a streamed result."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def say_json(value: Any, *, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line to stderr."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; only a real terminal's width truncates them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in head:
        grid.add_column(name, overflow="fold" if name in ("CAN", "PATH", "ALSO") else "ellipsis")
    for row in rows:
        grid.add_row(*(Text(printable(cell), style=_COLORS.get(cell, "")) for cell in row))
    console.print(grid)


def show_image(data: bytes) -> bool:
    """Show an image on the terminal, if it supports that."""
    how = terminal.protocol(os.environ, is_terminal=sys.stdout.isatty())
    text = terminal.encoded(data, how) if how else None
    if text is None:
        return False
    sys.stdout.write(text)
    sys.stdout.flush()
    return True


class Bar:
    """A progress line on stderr, if that is a terminal; else nothing."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self.polling = True  # show the manager's status until the response has comments

    def update(self, note: ProgressNote) -> None:
        # Without a total the bar pulses.
        total = note.total or None
        self._progress.update(
            self._task, description=printable(note.text), completed=note.done, total=total
        )

    def show_comment(self, note: ProgressNote) -> None:
        """Show a comment of the response, which replaces the polled status."""
        self.polling = False
        self.update(note)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar while something else is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def end(self) -> None:
        self.polling = False
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
def waiting_bar(gateway: Gateway, name: str | None, text: str = "waiting") -> Iterator[Bar]:
    """A bar that shows what a request for model *name* waits for, from the polled status."""
    done = threading.Event()

    def poll(line: Bar) -> None:
        while not done.wait(_POLL_S) and line.polling:
            try:
                status = as_shape(ManagerStatus, gateway.request("GET", STATUS), STATUS)
            except CommandError:
                continue  # the request itself reports it
            note = waiting(status, name)
            if note and line.polling:
                line.update(note)

    with bar(text) as line:
        poller = threading.Thread(target=poll, args=(line,), daemon=True)
        if sys.stderr.isatty():
            poller.start()
        try:
            yield line
        finally:
            done.set()
            if poller.is_alive():
                poller.join(1)
