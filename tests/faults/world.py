"""A stack, its clients, and the checks that follow every fault.

The same checks follow each fault: every accepted request got a response or a clear error; no lease,
process, port or file handle is left; every memory sample was within the budget.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from testkit.stacks import wait_for
from tests.faults.calls import Call, in_words, lost
from tests.faults.processes import alive, handles, handles_in_words
from tests.faults.stack import END_S, Stack

_SETTLE_S = 15.0
_OWN_FAULTS = (
    "Traceback",
    "a fault of the manager",
    "never retrieved",
    "Unclosed",
    "never awaited",
)


class World(Stack):
    """A stack whose requests are recorded, and which can be checked."""

    def __init__(
        self, folder: Path, config: Path, *, real: bool, small_disk: Path | None = None
    ) -> None:
        super().__init__(folder, config, real=real, small_disk=small_disk)
        self.calls: list[Call] = []
        self.seen: list[str] = []  # remarks of a row for the document
        self._before: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        super().__enter__()
        self._before = wait_for(self._steady_handles)
        return self

    # --- requests --------------------------------------------------------------------------------

    def call(self, route: str = "chat", model: str | None = None, **fields: Any) -> Call:
        """Start a request."""
        call = Call(self.settings.gateway.port, route, model, **fields)
        with self._lock:
            self.calls.append(call)
        call.start()
        return call

    def stream(self, model: str | None = None, **fields: Any) -> Call:
        """Start a stream, and wait for its first token."""
        call = self.call("stream", model, **fields)
        assert call.first.wait(60), call
        return call

    def serves(self, route: str = "chat", model: str | None = None, **fields: Any) -> bool:
        """Does a request succeed now? If not, prints the reason, for the output of a failed test."""
        call = self.call(route, model, **fields).ended()
        return call.served or print(f"not served: {call}") is not None  # noqa: T201

    @contextmanager
    def load(self, *models: str, clients: int = 4, pause_s: float = 0.02) -> Iterator[None]:
        """Clients that send requests to all routes of *models*, until the block ends."""
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
        ports = self.ports
        log_dir = str(self.settings.manager.log_dir)
        return {
            tier: handles(process.pid, ports, log_dir)
            for tier, process in self.tiers.items()
            if process.poll() is None
        }

    def check(self, *, over_budget_s: float = 0.0) -> None:
        """All checks; *over_budget_s*: how long the budget may be exceeded without a break."""
        self._every_request_has_an_end()
        self._nothing_is_held()
        self._everything_ends()
        over = self.sampler.longest_over(self.budget)
        peak = f"{self.sampler.peak >> 20} of {self.budget >> 20} MB"
        assert over <= over_budget_s, f"the budget was exceeded for {over:.2f} s: {peak}"

    def _every_request_has_an_end(self) -> None:
        for call in self.calls:
            call.ended()
        assert not (missing := lost(self.calls, tier_was_killed="gateway" in self.killed)), missing

    def _nothing_is_held(self) -> None:
        if self.tiers["manager"].poll() is not None:
            return
        wait_for(lambda: self._leases() == {}, _SETTLE_S)
        self.control("/stop-all")
        wait_for(lambda: not [p for p in self.workers_now() if not _standby(p)], _SETTLE_S)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            now = self._handles()
            more = {t: (self._before[t], n) for t, n in now.items() if n > self._before[t]}
            if not {t: n for t, n in more.items() if t not in self.killed}:
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

    def _everything_ends(self) -> None:
        self.sampler.finish()
        before = self.tree() | self.sampler.known
        running = {tier: p for tier, p in self.tiers.items() if p.poll() is None}
        for process in running.values():
            process.terminate()
        statuses = {tier: process.wait(END_S) for tier, process in running.items()}
        assert statuses.get("manager", 0) == 0, statuses
        assert statuses.get("gateway", 0) in (0, -signal.SIGTERM), statuses
        wait_for(lambda: not [pid for pid in before if alive(pid)], 6)
        self.let_ports_go()
        wait_for(lambda: not [port for port in self.ports if _taken(port)], 5)
        for tier in self.tiers:
            lines = self.log(tier).splitlines()
            faults = [n for n, line in enumerate(lines) if any(w in line for w in _OWN_FAULTS)]
            if faults:
                first = "\n".join(lines[max(0, faults[0] - 2) : faults[0] + 60])
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
    """Repeat the request until it succeeds, for outages that end after a while."""
    wait_for(lambda: world.call(*args, **fields).served, timeout_s)


Provoke = Callable[[World], None]
Changes = Mapping[str, Any]
