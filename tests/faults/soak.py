"""``python -m tests.faults.soak --minutes N [--seed S]``: mixed load, random faults, a report.

The demo models under a budget for two of three, so that they are loaded in turn; clients on all
routes, some of which disconnect early or send invalid requests; a fault about every twenty seconds.
Prints a report (Markdown); exits with 1 if a request was lost, the budget was exceeded, or memory grew.
``--write`` also puts the report into docs/dev/reliability.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testkit.document import write_section
from testkit.stacks import wait_for
from tests.faults.calls import lost
from tests.faults.fault import Fault, real_config
from tests.faults.processes import pss
from tests.faults.soak_faults import FAULTS, Clients
from tests.faults.soak_report import Reading, Soaked, render, verdicts
from tests.faults.table import DOCUMENT
from tests.faults.world import World

CLIENTS = 5
FAULT_EVERY_S = 20.0
READ_EVERY_S = 5.0
WARM_UP_S = 12.0  # per model
ALIASES = ("vlm-fast", "vlm-best", "image-gen")
# Two fit, by declared and by actual memory (up to 265, 265 and 480 MB); three never do.
SETTINGS = {
    "memory.max_unified_memory_gb": 0.78,
    "memory.safety_margin_gb": 0,
    "manager.max_wait_s": 5,
    "manager.stall_timeout_s": 30,
    "manager.state_dir": "state",
    "manager.log_dir": "logs",
    "models.vlm-fast.memory_gb": 0.3,
    "models.vlm-best.memory_gb": 0.3,
    "models.image-gen.memory_gb": 0.5,
}


@dataclass(slots=True)
class Soak:
    """The data of a run. Each field is written by one thread and read at the end."""

    world: World
    minutes: float
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    readings: list[Reading] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        began = time.monotonic()
        until = began + 60 * self.minutes
        clients = [Clients(self.world, self.stop, random.Random(self.seed + n)) for n in range(CLIENTS)]
        threads = [threading.Thread(target=c.run, daemon=True) for c in clients]
        threads.append(threading.Thread(target=self._read, args=(began,), daemon=True))
        for thread in threads:
            thread.start()
        self._provoke(random.Random(self.seed), until)
        self.stop.set()
        for thread in threads:
            thread.join(300)

    def _provoke(self, chance: random.Random, until: float) -> None:
        while True:
            pause = chance.uniform(0.5, 1.5) * FAULT_EVERY_S
            if time.monotonic() + pause > until:
                time.sleep(max(0.0, until - time.monotonic()))
                return
            time.sleep(pause)
            name = chance.choice(sorted(FAULTS))
            ready = sorted(self.world.status()["workers"])
            if FAULTS[name](self.world, chance.choice(ready or ALIASES)):
                self.faults[name] += 1

    def _read(self, began: float) -> None:
        while not self.stop.wait(READ_EVERY_S):
            self.readings.append(self.reading(began))

    def reading(self, began: float) -> Reading:
        return Reading(
            minutes=(time.monotonic() - began) / 60,
            gateway=pss(self.world.pid("gateway")),
            manager=pss(self.world.pid("manager")),
        )


def warm_up(world: World, seed: int) -> None:
    """Put each model under load alone, so that the manager learns its peak."""
    for alias in ALIASES:
        stop = threading.Event()
        clients = [Clients(world, stop, random.Random(seed + n), alias) for n in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        stop.wait(WARM_UP_S)
        stop.set()
        for thread in threads:
            thread.join(120)
        world.control("/stop-all")


def soak(minutes: float, seed: int, folder: Path) -> Soaked:
    row = Fault("soak", "", lambda world: None, settings=SETTINGS, real=True)
    with World(folder, real_config(row, folder), real=True) as world:
        warm_up(world, seed)
        run = Soak(world, minutes, seed)
        run.run()
        calls = [call.ended() for call in world.calls]
        loads = {alias: world.loads(alias) for alias in ALIASES}
        evictions = world.log("manager").count("evicted for ")
        models = world.status()["models"]
        problems = _aftermath(world)
    return Soaked(
        minutes=minutes,
        seed=seed,
        calls=calls,
        faults=run.faults,
        loads=loads,
        evictions=evictions,
        learned_gb={alias: float(models[alias]["learned_gb"]) for alias in ALIASES},
        readings=run.readings,
        peak=world.sampler.peak,
        budget=world.budget,
        samples=len(world.sampler.samples),
        over_s=world.sampler.longest_over(world.budget),
        problems=problems,
    )


def _aftermath(world: World) -> list[str]:
    """The problems that the fault suite's checks find after the run."""
    try:
        wait_for(lambda: world.call("analyze").served, 120)
        world.check(over_budget_s=float("inf"))  # the report judges the budget
    except AssertionError as exc:
        return [str(exc)]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        soaked = soak(args.minutes, args.seed, Path(folder))
    report = render(soaked)
    sys.stdout.write(report + "\n")
    if args.write:
        write_section(DOCUMENT, "soak", report)
    for call in lost(soaked.calls):
        sys.stderr.write(f"{call}\n")
    return 0 if all(verdict.passed for verdict in verdicts(soaked)) else 1


if __name__ == "__main__":
    sys.exit(main())
