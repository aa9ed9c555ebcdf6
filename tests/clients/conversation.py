"""A client's process, which runs one scenario after another."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

from hostctl.local_stack import ROOT


class ClientFailed(Exception):
    """The client raised an error or ended; with its message."""


class Conversation:
    """``with Conversation(command, world, folder) as client: seen = client.ask("chat")``."""

    def __init__(self, command: list[str], world: Path, folder: Path) -> None:
        self._command = [*command, str(world)]
        self._errors = folder / f"{world.stem}.stderr"
        self._answers: Queue[str] = Queue()

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )
        # A thread, because a pipe can't be read with a deadline.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, scenario: str, timeout_s: float) -> dict[str, Any]:
        """The client's result. Raises ``ClientFailed`` with its error, or the end of its log."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(scenario + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except BrokenPipeError:
            line = ""
        except Empty:
            raise ClientFailed(f"no answer within {timeout_s} s\n{self._log_end()}") from None
        if not line:
            raise ClientFailed(f"the client has ended\n{self._log_end()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ClientFailed(answer["failed"])
        seen: dict[str, Any] = answer["seen"]
        return seen

    def _log_end(self) -> str:
        return "\n".join(self._errors.read_text(errors="replace").splitlines()[-20:])
