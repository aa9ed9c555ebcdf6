"""The processes of one stack on free ports: a gateway, a manager, and the manager's workers.

Rule: everything is done from outside, as by an operator or a crash: with signals, ports and files.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from contracts.settings import Settings
from contracts.settings.file import load
from manager.launcher.process import ROOT
from testkit import plain
from testkit.stacks import wait_for
from tests.faults.processes import Sampler, alive, children, descendants

FAKES = ROOT / "testkit" / "fakes"
END_S = 45.0
_PRIVATE = ("GATEWAY_", "MANAGER_", "WORKER_MANAGER_", "VISION_", "IDLE_TIMEOUT")


class Stack:
    """``with Stack(folder, config, ...) as stack:`` a gateway and a manager, with their processes.

    *real*: with real workers, otherwise with fake ones; *small_disk*: a folder that is a tmpfs of 64 kB
    for the manager.
    """

    def __init__(
        self, folder: Path, config: Path, *, real: bool, small_disk: Path | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self.settings: Settings = load(config, {})
        self.budget = self.settings.memory.budget_bytes(0)
        self.killed: set[str] = set()  # tiers
        self.tiers: dict[str, subprocess.Popen[bytes]] = {}
        self.sampler = Sampler(self.workers_now)
        self._real = real
        self._small_disk = small_disk
        self._foreign: list[socket.socket] = []

    # --- tiers -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            for tier in ("manager", "gateway"):
                self.start(tier)
            self.up()
        except BaseException:
            self.__exit__()
            raise
        self.sampler.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sampler.finish()
        self.let_ports_go()
        pids = set().union(*(descendants(p.pid) for p in self.tiers.values())) | self.sampler.known
        for process in self.tiers.values():
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def start(self, tier: str) -> None:
        """Start ``manager`` or ``gateway``, possibly after a former one has ended."""
        if tier in self.tiers:
            self.tiers[tier].communicate()
        argv = [sys.executable, "-m", tier]
        if tier == "manager" and not self._real:
            argv = [sys.executable, str(FAKES / "manager.py")]
        argv += ["--config", str(self.config), "--parent-pipe"]
        if tier == "manager" and self._small_disk is not None:
            # A private mount, which disappears with the process.
            mount = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
            argv = ["unshare", "-rm", "sh", "-c", mount, str(self._small_disk), *argv]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(_PRIVATE)}
        environ["FAKE_MANAGER_LEVERS"] = str(self.folder / "levers")
        with self.log_file(tier).open("ab") as output:
            self.tiers[tier] = subprocess.Popen(
                argv, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    def log_file(self, tier: str) -> Path:
        return self.folder / f"{tier}.out"

    def log(self, tier: str) -> str:
        return self.log_file(tier).read_text(errors="replace")

    def pid(self, tier: str) -> int:
        return self.tiers[tier].pid

    def up(self) -> None:
        """Wait until the gateway reaches the manager."""

        def ready() -> bool:
            for tier, process in self.tiers.items():
                assert process.poll() is None, f"the {tier} ended:\n{self.log(tier)[-2000:]}"
            try:
                return plain.get(f"{self.gateway_url}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready, 60)

    def kill(self, tier: str) -> None:
        """kill -9, and reap it."""
        self.killed.add(tier)
        self.tiers[tier].kill()
        self.tiers[tier].wait()

    def terminate(self, tier: str) -> None:
        self.tiers[tier].terminate()

    def exit_status(self, tier: str) -> int:
        return self.tiers[tier].wait(END_S)

    def tree(self) -> set[int]:
        """All processes of the stack."""
        tiers = {p.pid for p in self.tiers.values() if p.poll() is None}
        return tiers.union(*(descendants(pid) for pid in tiers))

    @property
    def ports(self) -> set[int]:
        models = {model.port for model in self.settings.models.values()}
        return models | {self.settings.gateway.port, self.settings.manager.port}

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.gateway.port}"

    @property
    def manager_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.manager.port}"

    # --- workers ---------------------------------------------------------------------------------

    def workers_now(self) -> set[int]:
        manager = self.tiers.get("manager")
        return children(manager.pid) if manager is not None and manager.poll() is None else set()

    def status(self) -> Any:
        return plain.get(f"{self.manager_url}/status", timeout=30).json()

    def state(self, alias: str) -> str:
        return str(self.status()["models"][alias]["status"])

    def in_state(self, alias: str, *states: str, timeout_s: float = 30.0) -> None:
        wait_for(lambda: self.state(alias) in states, timeout_s)

    def open_requests(self, alias: str) -> int:
        workers = self.status()["workers"]
        return int(workers[alias]["active_requests"]) if alias in workers else 0

    def queued(self, alias: str) -> int:
        return int(self.status()["models"][alias]["queued"])

    def worker_pid(self, alias: str) -> int:
        """The process of *alias*, loading or ready; waits until there is one."""
        port = str(self.settings.models[alias].port)

        def find() -> int | None:
            ready = self.status()["workers"].get(alias)
            if ready is not None:
                return int(ready["pid"])
            for pid in self.workers_now():
                try:
                    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if port in argv:
                    return pid
            return None

        return int(wait_for(find))

    def signal_worker(self, alias: str, number: int = signal.SIGKILL) -> int:
        pid = self.worker_pid(alias)
        os.kill(pid, number)
        return pid

    def kill_process(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def loads(self, alias: str) -> int:
        """The number of starts of *alias* in the manager's log."""
        return self.log("manager").count(f" {alias}: stopped -> starting") + self.log("manager").count(
            f" {alias}: failed -> starting"
        )

    def control(self, path: str, timeout_s: float = 60.0) -> httpx.Response:
        """``POST`` to the manager."""
        return plain.post(f"{self.manager_url}{path}", timeout=timeout_s)

    # --- control of the fakes ----------------------------------------------------------------------

    def flag(self, name: str = "flag") -> Path:
        """The file for which fake workers with ``hold`` or ``ready_when`` wait; ``touch`` it."""
        return self.folder / name

    def pull(self, **levers: float) -> None:
        """Set all of the fake manager's levers (testkit/fakes/manager.py) at once."""
        new = self.folder / "levers.new"
        new.write_text(json.dumps(levers))
        new.replace(self.folder / "levers")

    def occupy(self, alias: str) -> socket.socket:
        """Listen on the port of *alias* without ever responding."""
        sock = socket.create_server(("127.0.0.1", self.settings.models[alias].port))
        self._foreign.append(sock)
        return sock

    def let_ports_go(self) -> None:
        for sock in self._foreign:
            sock.close()
