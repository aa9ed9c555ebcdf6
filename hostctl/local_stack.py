"""Manager and gateway as two local processes, started and stopped together.

Rules: a failed start is reported in one line with the fix. No process and no used port is left behind.
The processes have their own sessions, so Ctrl-C reaches only this process, which stops them in order.
If this process dies, a closed pipe stops them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from contracts.settings import Settings
from contracts.settings.file import SettingsError, load
from web.ports import authority, is_everywhere, taken

ROOT = Path(__file__).resolve().parents[1]
_START_S = 30.0
_STOP_S = 45.0  # the manager drains, then stops its workers


class CannotStart(Exception):
    """The message names the problem and the fix."""


class LocalStack:
    """``with LocalStack(config, os.environ) as stack:`` runs the stack during the block.

    *tiers*: the tiers to run; the other one may run elsewhere, for example in a container.
    """

    def __init__(
        self, config: Path, environ: Mapping[str, str], tiers: tuple[str, ...] = ("manager", "gateway")
    ) -> None:
        try:
            self.settings: Settings = load(config, environ)
        except SettingsError as exc:
            raise CannotStart(str(exc)) from exc
        self.config = config
        self._tiers = tiers
        self._environ = dict(environ)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = Path(self.settings.manager.log_dir)
        self._log_starts: dict[str, int] = {}  # the offset of this run in each log file

    @property
    def url(self) -> str:
        """The gateway's URL from this machine."""
        gateway = self.settings.gateway
        host = "127.0.0.1" if is_everywhere(gateway.host) else gateway.host
        return f"http://{authority(host, gateway.port)}"

    @property
    def headers(self) -> dict[str, str]:
        key = self.settings.gateway.required_key
        return {"authorization": f"Bearer {key}"} if key else {}

    def __enter__(self) -> Self:
        self._check_ports()
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            for tier in self._tiers:
                self.start(tier)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def _check_ports(self) -> None:
        gateway, manager = self.settings.gateway, self.settings.manager
        listeners = {
            "gateway": ("GATEWAY_PORT", gateway.host, gateway.port),
            "manager": ("MANAGER_PORT", manager.host, manager.port),
        }
        for tier, (variable, host, port) in listeners.items():
            if tier in self._tiers and taken(port, host):
                raise CannotStart(
                    f"port {port} is in use: stop the program that listens there (lsof -i :{port}), "
                    f"or set another one with {variable}=..."
                )
        for alias, model in self.settings.models.items():
            if taken(model.port):
                raise CannotStart(
                    f"port {model.port} is in use: stop the program that listens there "
                    f"(lsof -i :{model.port}), or set models.{alias}.port in {self.config}"
                )

    def start(self, tier: str) -> None:
        """Start ``manager`` or ``gateway``; replaces one that has exited."""
        before = self._processes.pop(tier, None)
        if before is not None:
            _reap(before)
        log = self._logs / f"{tier}.log"
        with log.open("ab") as output:
            self._log_starts[tier] = output.tell()
            self._processes[tier] = subprocess.Popen(
                [*self.program(tier), "--config", str(self.config), "--parent-pipe"],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def program(self, tier: str) -> Sequence[str]:
        """The command that runs *tier*."""
        return (sys.executable, "-m", tier)

    def wait_until_ready(self, tick: Callable[[float], None] = lambda seconds: None) -> None:
        """Return when ``/readyz`` is 200; *tick* is called with the seconds waited so far.

        Raises ``CannotStart`` with the end of the log if a tier exits or time runs out.
        """
        began = time.monotonic()
        # No proxy and no TLS on this machine; loading the certificates takes a while.
        with httpx.Client(base_url=self.url, timeout=2, trust_env=False, verify=False) as gateway:
            while (waited := time.monotonic() - began) < _START_S:
                tick(waited)
                self.check()
                try:
                    if gateway.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise CannotStart(f"not ready after {_START_S:.0f} s:\n{self._log_end('gateway')}")

    def check(self) -> None:
        """Raise ``CannotStart`` if a tier has exited."""
        for tier, process in self._processes.items():
            if process.poll() is not None:
                raise CannotStart(self._how_it_ended(tier, process))

    def stop(self) -> None:
        """Drain and stop both tiers at the same time; the manager stops its workers.

        During the wait Ctrl-C does not end this process, which would leave the others behind; it skips
        the drain instead.
        """
        with _signals_to(self._hurry):
            self._signal(signal.SIGTERM)
            for process in self._processes.values():
                _reap(process)
        self._processes.clear()

    def _hurry(self, number: int, frame: object) -> None:
        # A second SIGINT makes a tier exit at once.
        self._signal(signal.SIGINT)
        self._signal(signal.SIGINT)

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def close_pipes(self) -> None:
        """Close the pipes to the tiers, as the death of this process would: they exit."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()

    def _how_it_ended(self, tier: str, process: subprocess.Popen[bytes]) -> str:
        status = process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return f"the {tier} {how}\n{self._log_end(tier)}"

    def _log_end(self, tier: str) -> str:
        log = self._logs / f"{tier}.log"
        with log.open("rb") as file:
            file.seek(self._log_starts.get(tier, 0))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join([*lines[-3:], f"(log: {log})"])


@contextmanager
def _signals_to(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with *handler* during the block, if in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def interrupted_by_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise ``KeyboardInterrupt``, so that ``with`` blocks clean up.

    SIGINT is set too, because shells without job control start background commands with it ignored.
    SIGHUP stays ignored if nohup has set that.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)


def stay_up(stack: LocalStack) -> None:
    """Run until Ctrl-C, or until a tier exits."""
    while True:
        time.sleep(1)
        stack.check()


def config_of(environ: Mapping[str, str], default: str) -> Path:
    return Path(environ.get("VISION_CONFIG") or ROOT / default).resolve()
