"""A stack of real processes on free ports, its clients, and the checks that follow every fault.

After each fault the same is asked: has every accepted request got an answer or a clear error; is no
lease, process, port or file handle left; was the budget held at every sample of another process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from contracts.settings import Settings, load
from manager.process import ROOT
from tests.faults.calls import Call, in_words, lost
from tests.faults.processes import (
    Sampler,
    alive,
    children,
    descendants,
    handles,
    handles_in_words,
)
from tests.stacks import wait_for

FAKES = ROOT / "tests" / "fakes"
_PRIVATE = ("GATEWAY_", "MANAGER_", "WORKER_MANAGER_", "VISION_", "IDLE_TIMEOUT")
_SETTLE_S = 15.0
_END_S = 45.0
_FAULTS_OF_OURS = (
    "Traceback",
    "a fault of the manager",
    "never retrieved",
    "Unclosed",
    "never awaited",
)


class World:
    """``with World(folder, config, ...) as world:`` a gateway, a manager, and whatever they start."""

    def __init__(
        self, folder: Path, config: Path, *, real: bool, small_disk: Path | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self.settings: Settings = load(config, {})
        self.budget = self.settings.memory.budget_bytes(0)
        self.calls: list[Call] = []
        self.gateway_was_killed = False
        self.seen: list[str] = []  # what a row wants to have said of it
        self._real = real
        self._small_disk = small_disk
        self._tiers: dict[str, subprocess.Popen[bytes]] = {}
        self._before: dict[str, int] = {}
        self._killed: set[str] = set()
        self._foreign: list[socket.socket] = []
        self._lock = threading.Lock()
        self.sampler = Sampler(self._workers_now)

    # --- tiers -----------------------------------------------------------------------------------

    def __enter__(self) -> World:
        for tier in ("manager", "gateway"):
            self.start(tier)
        self.up()
        self.sampler.start()
        self._before = wait_for(self._steady_handles)
        return self

    def __exit__(self, *exc: object) -> None:
        self.sampler.finish()
        for sock in self._foreign:
            sock.close()
        pids = set().union(*(descendants(p.pid) for p in self._tiers.values())) | self.sampler.known
        for process in self._tiers.values():
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def start(self, tier: str) -> None:
        """Start ``manager`` or ``gateway``, in the place of one that has ended."""
        argv = [sys.executable, "-m", tier]
        if tier == "manager" and not self._real:
            argv = [sys.executable, str(FAKES / "manager.py")]
        argv += ["--config", str(self.config)]
        if tier == "manager" and self._small_disk is not None:
            # A mount of its own, which goes with the process.
            mount = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
            argv = ["unshare", "-rm", "sh", "-c", mount, str(self._small_disk), *argv]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(_PRIVATE)}
        environ["FAKE_MANAGER_LEVERS"] = str(self.folder / "levers")
        with self.log_file(tier).open("ab") as output:
            self._tiers[tier] = subprocess.Popen(
                argv, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def log_file(self, tier: str) -> Path:
        return self.folder / f"{tier}.out"

    def log(self, tier: str) -> str:
        return self.log_file(tier).read_text(errors="replace")

    def pid(self, tier: str) -> int:
        return self._tiers[tier].pid

    def up(self) -> None:
        """Wait until the gateway reaches the manager."""

        def ready() -> bool:
            for tier, process in self._tiers.items():
                assert process.poll() is None, f"the {tier} ended:\n{self.log(tier)[-2000:]}"
            try:
                return httpx.get(f"{self.gateway_url}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready, 60)

    def kill(self, tier: str) -> None:
        """kill -9, and reap it."""
        self._killed.add(tier)
        self.gateway_was_killed |= tier == "gateway"
        self._tiers[tier].kill()
        self._tiers[tier].wait()

    def terminate(self, tier: str) -> None:
        self._tiers[tier].terminate()

    def exit_status(self, tier: str) -> int:
        return self._tiers[tier].wait(_END_S)

    def tree(self) -> set[int]:
        """All processes of the stack."""
        tiers = {p.pid for p in self._tiers.values() if p.poll() is None}
        return tiers.union(*(descendants(pid) for pid in tiers))

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.gateway.port}"

    @property
    def manager_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.manager.port}"

    # --- workers ---------------------------------------------------------------------------------

    def _workers_now(self) -> set[int]:
        manager = self._tiers.get("manager")
        return children(manager.pid) if manager is not None and manager.poll() is None else set()

    def status(self) -> Any:
        return httpx.get(f"{self.manager_url}/status", timeout=30).json()

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
            for pid in self._workers_now():
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
        """How often *alias* was started, by the manager's log."""
        return self.log("manager").count(f" {alias}: stopped -> starting") + self.log("manager").count(
            f" {alias}: failed -> starting"
        )

    def control(self, path: str, timeout_s: float = 60.0) -> httpx.Response:
        """``POST`` to the manager."""
        return httpx.post(f"{self.manager_url}{path}", timeout=timeout_s)

    # --- what fakes are held by --------------------------------------------------------------------

    def flag(self, name: str = "flag") -> Path:
        """What fake workers with ``hold`` or ``ready_when`` wait for; ``touch`` it."""
        return self.folder / name

    def pull(self, **levers: float) -> None:
        """Set the fake manager's levers (tests/fakes/manager.py) all at once."""
        new = self.folder / "levers.new"
        new.write_text(json.dumps(levers))
        new.replace(self.folder / "levers")

    def occupy(self, alias: str) -> socket.socket:
        """Listen on the port of *alias*, and never answer."""
        sock = socket.create_server(("127.0.0.1", self.settings.models[alias].port))
        self._foreign.append(sock)
        return sock

    # --- requests --------------------------------------------------------------------------------

    def call(self, route: str = "chat", model: str | None = None, **fields: Any) -> Call:
        """A request that has begun."""
        call = Call(self.settings.gateway.port, route, model, **fields)
        with self._lock:
            self.calls.append(call)
        call.start()
        return call

    def stream(self, model: str | None = None, **fields: Any) -> Call:
        """A stream that has brought its first token."""
        call = self.call("stream", model, **fields)
        assert call.first.wait(60), call
        return call

    def answers(self, route: str = "chat", model: str | None = None, **fields: Any) -> bool:
        """Whether a request made now is answered; says why not, in the output of a failed test."""
        call = self.call(route, model, **fields).ended()
        return call.answered or print(f"not answered: {call}") is not None  # noqa: T201

    @contextmanager
    def load(self, *models: str, clients: int = 4, pause_s: float = 0.02) -> Iterator[None]:
        """Clients that ask on and on, each route that *models* have, until the block ends."""
        stop = threading.Event()

        def ask(number: int) -> None:
            while not stop.wait(pause_s):
                model = models[number % len(models)]
                routes = ("draw",) if model.startswith("image") else ("stream", "chat", "analyze")
                self.call(routes[number % len(routes)], model).ended()
                number += 1

        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(150)

    def of(self, *calls: Call) -> str:
        return in_words(call.ended() for call in calls)

    # --- the checks ------------------------------------------------------------------------------

    def _steady_handles(self) -> dict[str, int] | None:
        first = self._handles()
        time.sleep(0.1)
        return first if first == self._handles() else None

    def _handles(self) -> dict[str, int]:
        ports = self._ports()
        log_dir = str(self.settings.manager.log_dir)
        return {
            tier: handles(process.pid, ports, log_dir)
            for tier, process in self._tiers.items()
            if process.poll() is None
        }

    def _ports(self) -> set[int]:
        models = {model.port for model in self.settings.models.values()}
        return models | {self.settings.gateway.port, self.settings.manager.port}

    def check(self, *, over_budget_s: float = 0.0) -> None:
        """The three checks; *over_budget_s*: for how long at a time the budget may be exceeded."""
        self._every_request_has_an_end()
        self._nothing_is_held()
        self._all_ends_in_order()
        over = self.sampler.longest_over(self.budget)
        peak = f"{self.sampler.peak >> 20} of {self.budget >> 20} MB"
        assert over <= over_budget_s, f"the budget was exceeded for {over:.2f} s: {peak}"

    def _every_request_has_an_end(self) -> None:
        for call in self.calls:
            call.ended()
        assert not (gone := lost(self.calls, tier_was_killed=self.gateway_was_killed)), gone

    def _nothing_is_held(self) -> None:
        if self._tiers["manager"].poll() is not None:
            return
        wait_for(lambda: self._leases() == {}, _SETTLE_S)
        self.control("/stop-all")
        wait_for(lambda: not [p for p in self._workers_now() if not _standby(p)], _SETTLE_S)
        started_anew = self._killed
        deadline = time.monotonic() + _SETTLE_S
        while True:
            now = self._handles()
            more = {t: (self._before[t], n) for t, n in now.items() if n > self._before[t]}
            if not {t: n for t, n in more.items() if t not in started_anew}:
                return
            if time.monotonic() > deadline:
                open_now = [handles_in_words(self.pid(tier)) for tier in more]
                raise AssertionError(f"handles left open (before, now): {more}: {open_now}")
            time.sleep(0.1)

    def _leases(self) -> dict[str, Any]:
        """The aliases with open or queued requests."""
        status = self.status()
        held = {a: w["active_requests"] for a, w in status["workers"].items() if w["active_requests"]}
        return held | {a: m["queued"] for a, m in status["models"].items() if m["queued"]}

    def _all_ends_in_order(self) -> None:
        self.sampler.finish()
        before = self.tree() | self.sampler.known
        running = {tier: p for tier, p in self._tiers.items() if p.poll() is None}
        for process in running.values():
            process.terminate()
        statuses = {tier: process.wait(_END_S) for tier, process in running.items()}
        assert statuses.get("manager", 0) == 0, statuses
        assert statuses.get("gateway", 0) in (0, -signal.SIGTERM), statuses
        wait_for(lambda: not [pid for pid in before if alive(pid)], 6)
        for sock in self._foreign:
            sock.close()
        wait_for(lambda: not [port for port in self._ports() if _taken(port)], 5)
        for tier in self._tiers:
            lines = self.log(tier).splitlines()
            said = [n for n, line in enumerate(lines) if any(w in line for w in _FAULTS_OF_OURS)]
            if said:
                first = "\n".join(lines[max(0, said[0] - 2) : said[0] + 60])
                raise AssertionError(f"the {tier} has a fault of its own:\n{first}")


def _standby(pid: int) -> bool:
    try:
        return b"--standby" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def eventually_answers(world: World, *args: Any, timeout_s: float = 30.0, **fields: Any) -> None:
    """Ask again until it is answered: for what is told to come back after a while."""
    wait_for(lambda: world.call(*args, **fields).answered, timeout_s)


Provoke = Callable[[World], None]
Changes = Mapping[str, Any]
