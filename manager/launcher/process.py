"""Worker processes: the only code that deals with processes, process groups and signals.

Rules: nothing above this module assumes that a worker runs on this host. Other modules see a
``Launcher`` and a ``Handle``, which is similar to ``subprocess.Popen``: signal, wait, address,
footprint.

A local worker leads its own session and process group, so that a stop reaches its children and Ctrl-C
in the manager's terminal does not reach workers. Its stdin is a pipe that the manager holds open:
however the manager ends, the pipe closes, and the worker exits at end of file. The only data ever
written to it is one line that gives a standby process the spec of its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from contracts.settings import WorkerSettings
from contracts.settings.models import ImageSettings, VlmSettings, is_folder
from manager.memory.footprint import footprint

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
Output = Callable[[bytes], None]  # gets the output of a worker; called from a thread
Measure = Callable[[int], int | None]  # the footprint in bytes of the process with this pid

_READ = 1 << 16  # bytes
_LAST_OUTPUT_S = 1.0
# Secrets that a process that runs model code must not have.
_SECRETS = ("MANAGER_TOKEN", "GATEWAY_API_KEY", "GATEWAY_API_KEYS")


def worker_argv(settings: WorkerSettings) -> tuple[str, ...]:
    """The command that starts a worker, with the arguments common to all workers."""
    argv = (sys.executable, "-m", "workers")
    limit = settings.wired_limit
    return (*argv, "--wired-limit-gb", f"{limit:g}") if limit else argv


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """``model``: the settings of the model as JSON; ``nonce``: ``/health`` must return it."""

    alias: str
    model: str
    port: int
    nonce: str


class StopSignal(Enum):
    """The signals of the ``stop_ladder``; each is sent to the worker and all its children."""

    TERMINATE = signal.SIGTERM
    KILL = signal.SIGKILL


class LaunchFailed(Exception):
    """The process could not be started."""


class Handle(Protocol):
    """One worker process, from its launch until it is reaped."""

    @property
    def pid(self) -> int: ...

    @property
    def address(self) -> Address: ...

    @property
    def was_parked(self) -> bool:
        """It was a standby process before it became this worker; it may have ended before that."""

    def signal(self, stop: StopSignal) -> None:
        """Send *stop*; has no effect when the process has ended."""

    async def wait(self) -> int:
        """The exit status, negative after a signal; returns once the process has been reaped and its
        last output has been passed on."""

    async def footprint(self) -> int | None:
        """The footprint of the process in bytes; None when it is unknown."""


class Launcher(Protocol):
    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        """Why *model* cannot be launched, by a quick check; "" if nothing is known against it."""

    async def launch(self, spec: LaunchSpec, output: Output) -> Handle:
        """Start a worker; *output* gets its output. Raises ``LaunchFailed``."""


class LocalLauncher:
    """Starts workers as children of this process: *argv* followed by the worker's arguments."""

    def __init__(
        self,
        argv: Sequence[str] = (sys.executable, "-m", "workers"),
        *,
        cwd: Path = ROOT,
        environ: Mapping[str, str] | None = None,
        measure: Measure = footprint,
    ) -> None:
        self._measure = measure
        self._argv = tuple(argv)
        self._cwd = cwd
        self._environ = environ

    def __repr__(self) -> str:
        return f"<LocalLauncher {' '.join(self._argv)}>"

    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        if is_folder(model.path) and not Path(model.path).is_dir():
            return f"{model.path} is not a folder"
        return ""

    def command(self, spec: LaunchSpec) -> list[str]:
        return [
            *self._argv,
            "--alias", spec.alias,
            "--spec", spec.model,
            "--host", LOOPBACK,
            "--port", str(spec.port),
            "--nonce", spec.nonce,
            "--parent-pipe",
        ]  # fmt: skip

    async def launch(self, spec: LaunchSpec, output: Output) -> LocalHandle:
        popen = await self._start(self.command(spec))
        address = Address(LOOPBACK, spec.port)
        return LocalHandle(popen, address, output, name=spec.alias, measure=self._measure)

    async def park(self, kinds: Sequence[str], output: Output) -> LocalParked:
        """Start a process that imports the libraries for *kinds* and waits for a spec.

        *output* gets its output until then. Raises ``LaunchFailed``.
        """
        popen = await self._start([*self._argv, "--standby", ",".join(kinds), "--parent-pipe"])
        return LocalParked(popen, output, self._measure)

    async def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        # In a thread, because fork and exec of a large parent take milliseconds.
        try:
            return await asyncio.to_thread(self._popen, command)
        except OSError as exc:
            raise LaunchFailed(f"cannot start {self._argv[0]}: {exc.strerror or exc}") from exc

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        environ = {k: v for k, v in (self._environ or os.environ).items() if k not in _SECRETS}
        environ["PYTHONUNBUFFERED"] = "1"  # so that its last output is not lost in a buffer
        return subprocess.Popen(
            command,
            cwd=self._cwd,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )


class LocalHandle:
    """A child process. One thread passes on its output, another waits for its end."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        address: Address,
        output: Output,
        *,
        name: str,
        measure: Measure,
    ) -> None:
        assert popen.stdout is not None
        self._popen = popen
        self._address = address
        self._was_parked = False
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._pump = threading.Thread(
            target=_pump, args=(popen.stdout, output), name=f"output-{name}", daemon=True
        )
        self._waiter = threading.Thread(target=self._reap, name=f"wait-{name}", daemon=True)
        self._pump.start()
        self._waiter.start()

    def __repr__(self) -> str:
        return f"<LocalHandle pid={self.pid} at {self._address} status={self.poll()}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def address(self) -> Address:
        return self._address

    @property
    def was_parked(self) -> bool:
        return self._was_parked

    def adopted(self, address: Address) -> None:
        self._was_parked, self._address = True, address

    def poll(self) -> int | None:
        # Not Popen.poll(), which would reap the process before its group has been killed.
        return self._popen.returncode

    def signal(self, stop: StopSignal) -> None:
        if self.poll() is None:
            _signal_group(self.pid, stop.value)

    async def wait(self) -> int:
        await self._exited.wait()
        return self._popen.returncode

    async def footprint(self) -> int | None:
        # The kernel walks the page tables for it, which takes milliseconds with gigabytes.
        return None if self.poll() is not None else await asyncio.to_thread(self._measure, self.pid)

    def _reap(self) -> None:
        """Runs in a thread while the process runs."""
        if hasattr(os, "waitid"):
            # While the leader is a zombie, its pid cannot be reused.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            _signal_group(self.pid, signal.SIGKILL)
            self._popen.wait()
        else:  # macOS before Python 3.13
            self._popen.wait()
            _signal_group(self.pid, signal.SIGKILL)
        # The worker's children have ended too, so the pipe ends. A process that left the group may hold
        # it open; do not wait for that.
        self._pump.join(_LAST_OUTPUT_S)
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exited.set)


class LocalParked:
    """A standby process, which waits at its standard input for a spec."""

    def __init__(self, popen: subprocess.Popen[bytes], output: Output, measure: Measure) -> None:
        self._output = output
        self._popen = popen
        nowhere = Address(LOOPBACK, 0)
        self.handle = LocalHandle(popen, nowhere, self._pass_on, name="standby", measure=measure)

    def _pass_on(self, data: bytes) -> None:
        self._output(data)

    def adopt(self, spec: LaunchSpec, output: Output) -> LocalHandle:
        """Make it the worker of *spec*; *output* gets its output from now on."""
        message = {
            "alias": spec.alias,
            "spec": spec.model,
            "host": LOOPBACK,
            "port": spec.port,
            "nonce": spec.nonce,
        }
        assert self._popen.stdin is not None
        self._output = output
        try:
            # It fits in the pipe's buffer, so this does not block.
            self._popen.stdin.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError) as exc:
            raise LaunchFailed(f"the standby worker is gone: {exc}") from exc
        self.handle.adopted(Address(LOOPBACK, spec.port))
        return self.handle


def exit_text(status: int) -> str:
    """The exit *status* in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _pump(pipe: IO[bytes], output: Output) -> None:
    with pipe:
        while chunk := os.read(pipe.fileno(), _READ):
            output(chunk)


def _signal_group(pid: int, number: signal.Signals) -> None:
    # macOS raises PermissionError for a group that contains only zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
