"""Manager and gateway as two local processes, started and stopped together.

Rules: says in one line what keeps it from starting, with the cure; whatever way it ends, it leaves no
process and no port taken. The processes get a session of their own, so that Ctrl-C reaches only this
one, which stops them in order; a pipe to each tells them when this one dies without a word.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from contracts.settings import Settings, SettingsError, load

ROOT = Path(__file__).resolve().parents[1]
_START_S = 30.0
_STOP_S = 45.0  # the manager drains, then stops its workers


class CannotStart(Exception):
    """The message is what is wrong, and the cure."""


class LocalStack:
    """``with LocalStack(config, os.environ) as stack:`` runs the stack for as long as the block."""

    def __init__(self, config: Path, environ: Mapping[str, str]) -> None:
        try:
            self.settings: Settings = load(config, environ)
        except SettingsError as exc:
            raise CannotStart(str(exc)) from exc
        self.config = config
        self._environ = dict(environ)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = Path(self.settings.manager.log_dir)

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        return f"http://127.0.0.1:{self.settings.gateway.port}"

    @property
    def headers(self) -> dict[str, str]:
        key = self.settings.gateway.required_key
        return {"authorization": f"Bearer {key}"} if key else {}

    def __enter__(self) -> Self:
        self._check_ports()
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            for tier in ("manager", "gateway"):
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
        ports = {"GATEWAY_PORT": self.settings.gateway.port, "MANAGER_PORT": self.settings.manager.port}
        for variable, port in ports.items():
            if _taken(port):
                raise CannotStart(
                    f"port {port} is taken: stop what listens there (lsof -i :{port}), "
                    f"or choose another with {variable}=..."
                )
        for alias, model in self.settings.models.items():
            if _taken(model.port):
                raise CannotStart(
                    f"port {model.port} is taken: stop what listens there (lsof -i :{model.port}), "
                    f"or choose another with models.{alias}.port in {self.config}"
                )

    def start(self, tier: str) -> None:
        """Start ``manager`` or ``gateway``, in the place of one that has ended."""
        before = self._processes.pop(tier, None)
        if before is not None:
            _reap(before)
        log = self._logs / f"{tier}.log"
        with log.open("ab") as output:
            self._processes[tier] = subprocess.Popen(
                [sys.executable, "-m", tier, "--config", str(self.config), "--parent-pipe"],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, tick: Callable[[float], None] = lambda seconds: None) -> None:
        """Returns when ``/readyz`` is 200; *tick* is called with the seconds waited so far.

        Raises ``CannotStart`` with the end of the log when a tier ends or time runs out.
        """
        began = time.monotonic()
        while (waited := time.monotonic() - began) < _START_S:
            tick(waited)
            for tier, process in self._processes.items():
                if process.poll() is not None:
                    raise CannotStart(f"the {tier} ended at once:\n{self._log_end(tier)}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise CannotStart(f"not ready after {_START_S:.0f} s:\n{self._log_end('gateway')}")

    def check(self) -> None:
        """Raises ``CannotStart`` when a tier has ended."""
        for tier, process in self._processes.items():
            if process.poll() is not None:
                raise CannotStart(f"the {tier} ended:\n{self._log_end(tier)}")

    def stop(self) -> None:
        """Gateway first, so that nothing new comes; then the manager, which stops its workers."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _reap(process)
        self._processes.clear()

    def let_go(self) -> None:
        """Close the pipes to the tiers, as the end of this process does: they leave by themselves."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()

    def _log_end(self, tier: str) -> str:
        log = self._logs / f"{tier}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:]) + f"\n(log: {log})"


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return True
    return False


def interrupted_by_signals() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does, through its ``with`` blocks."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


def stay_up(stack: LocalStack) -> None:
    """Until Ctrl-C, or until a tier ends."""
    while True:
        time.sleep(1)
        stack.check()


def config_of(environ: Mapping[str, str], default: str) -> Path:
    return Path(environ.get("VISION_CONFIG") or ROOT / default).resolve()
