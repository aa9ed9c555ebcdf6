"""Run ``vision`` as users do: in its own process and folder.

Most commands run in a forked process that has imported everything (``forked``). Tests of signals, pipes
and terminals start a new process.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostctl.local_stack import ROOT
from testkit.stacks import OURS
from tests.cli import forked

WAIT_S = 120.0
ANSI = "\x1b"
_OF_TERMINALS = ("NO_COLOR", "FORCE_COLOR", "TTY_", "TERM", "TMUX", "KITTY_", "LC_TERMINAL", "COLUMNS")


@dataclass(frozen=True)
class Done:
    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Vision:
    """``vision("ps", "--json")``; fails the test if stderr has a traceback."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(self, *args: str, stdin: bytes = b"", **environ: str) -> Done:
        with tempfile.TemporaryDirectory() as name:
            streams = Path(name)
            (streams / "stdin").write_bytes(stdin)
            status = forked.run(args, self.folder, self.env(environ), streams, WAIT_S)
            out, err = (streams / "stdout").read_bytes(), (streams / "stderr").read_text("utf-8")
        assert "Traceback" not in err, err
        return Done(status, out, err)

    def well(self, *args: str, stdin: bytes = b"", **environ: str) -> Done:
        done = self(*args, stdin=stdin, **environ)
        assert done.status == 0, done
        assert "\n\n" not in f"\n{done.err}"  # without a terminal there is no progress bar
        assert ANSI not in done.err
        return done

    def started(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(args),
            cwd=self.folder,
            env=self.env({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def on_a_terminal(self, *args: str, **environ: str) -> tuple[int, str]:
        """The exit status, and everything sent to the terminal."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                self.argv(args),
                cwd=self.folder,
                env=self.env({"TERM": "xterm-256color", **environ}),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
            os.close(theirs)
            sent = _read_to_end(ours)
            return process.wait(WAIT_S), sent
        finally:
            os.close(ours)

    def argv(self, args: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "cli", *args]

    def env(self, environ: dict[str, str]) -> dict[str, str]:
        mine = {k: v for k, v in os.environ.items() if not k.startswith((*OURS, *_OF_TERMINALS))}
        return {**mine, "PYTHONPATH": str(ROOT), **self.environ, **environ}


def _read_to_end(terminal: int) -> str:
    found = bytearray()
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # on Linux: the other end is closed
            break
        if not data:
            break
        found += data
    return found.decode("utf-8", "replace")
