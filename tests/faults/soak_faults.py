"""The clients of the soak, and its faults. Randomness is a parameter."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping

from testkit import plain
from tests.faults.calls import Ending
from tests.faults.world import World

_MODELS = {
    "chat": ("vlm-fast", "vlm-best"),
    "stream": ("vlm-fast", "vlm-best"),
    "analyze": ("vlm-fast", "vlm-best"),
    "draw": ("image-gen",),
    "edit": ("image-gen",),
}
_STOP_S = (0.5, 5.0)
_LEAVES = 0.08  # the share of clients that disconnect early
_NONSENSE = 0.08  # the share of invalid requests
_KEEP_ALIVE = 0.2  # the share of requests with keep_alive


class Clients:
    """Sends one request after the other, until *stop*."""

    def __init__(
        self, world: World, stop: threading.Event, chance: random.Random, only: str | None = None
    ) -> None:
        """*only*: the only alias to use; None: all of them."""
        self._only = only
        self._routes = sorted(r for r, models in _MODELS.items() if only is None or only in models)
        self._world = world
        self._stop = stop
        self._chance = chance

    def run(self) -> None:
        while not self._stop.wait(self._chance.uniform(0, 0.5)):
            self._ask()

    def _ask(self) -> None:
        chance = self._chance
        route = chance.choice(self._routes)
        model = self._only or chance.choice(_MODELS[route])
        fields: dict[str, object] = {}
        if chance.random() < _KEEP_ALIVE:
            fields["keep_alive"] = chance.choice([0, 5, -1])
        if route in ("chat", "stream"):
            fields |= {"max_tokens": chance.randint(1, 40), "n": chance.choice([1, 1, 2])}
        if chance.random() < _NONSENSE:
            fields |= chance.choice([{"size": "huge", "image": "?"}, {"temperature": "hot"}, {"n": 0}])
        elif chance.random() < _NONSENSE / 2:
            model = "no-such-model"
        call = self._world.call(route, model, **fields)
        if chance.random() < _LEAVES:
            call.first.wait(chance.uniform(0.05, 3))
            if call.ending is Ending.OPEN:
                call.leave()
        call.ended()


def _kill(world: World, alias: str) -> bool:
    return _signal(world, alias, signal.SIGKILL)


def _pause(world: World, alias: str) -> bool:
    """SIGSTOP, and SIGCONT a moment later."""
    pid = _pid(world, alias)
    if pid is None or not _signal(world, alias, signal.SIGSTOP):
        return False
    time.sleep(random.Random(pid).uniform(*_STOP_S))
    with contextlib.suppress(ProcessLookupError):  # meanwhile evicted or killed
        os.kill(pid, signal.SIGCONT)
    return True


def _evict(world: World, alias: str) -> bool:
    answer = plain.post(f"{world.gateway_url}/v1/system/evict/{alias}", timeout=120)
    return bool(answer.json()["was_loaded"])


def _stop_all(world: World, alias: str) -> bool:
    return bool(world.control("/stop-all", timeout_s=120).json()["stopped"])


def _signal(world: World, alias: str, number: int) -> bool:
    pid = _pid(world, alias)
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _pid(world: World, alias: str) -> int | None:
    """The process of *alias* if it is ready."""
    worker = world.status()["workers"].get(alias)
    return None if worker is None else int(worker["pid"])


# Each returns whether it happened: there may be no process to kill.
FAULTS: Mapping[str, Callable[[World, str], bool]] = {
    "kill -9 of a worker": _kill,
    "SIGSTOP of a worker for 0.5 to 5 s": _pause,
    "evict": _evict,
    "stop-all": _stop_all,
}
