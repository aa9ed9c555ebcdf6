"""``python -m bench.overhead [--rounds N] [--quick] [--out FILE]``: what the two hops cost.

The same requests go direct to a stand-in worker, through the manager, through both tiers, and through
LiteLLM's proxy, in turn, in the same run; each figure is told with its spread over the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.load import Order
from bench.report import MemoryRun, Rounds, Target, added, share, times_table
from bench.stack import Stack, memory_of, running
from bench.worker import CHAT, CHUNKS

CLIENTS = {1: 300, 16: 960, 64: 1280}  # -> requests a round
STREAMS = {1: 100, 16: 160}
IMAGE_BYTES = 6_000_000  # of a picture; its JSON body is a third larger
SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    effort: float  # share of the requests, and of the memory run, that is made
    litellm: bool
    memory_mb: int


def main() -> int:
    parse = argparse.ArgumentParser(prog="bench.overhead", description=__doc__.splitlines()[0])
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--quick", action="store_true", help="a fifth of the requests, 200 MB of bodies")
    parse.add_argument("--no-litellm", action="store_true", help="leave LiteLLM's proxy out")
    parse.add_argument("--out", type=Path, help="file for the report")
    args = parse.parse_args()
    plan = Plan(
        args.rounds, 0.2 if args.quick else 1.0, not args.no_litellm, 200 if args.quick else 1000
    )
    with running(litellm=plan.litellm) as stack:
        text = "\n".join(report(stack, plan)) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
    return 0


def report(stack: Stack, plan: Plan) -> list[str]:
    """Measure everything; the lines of the report."""
    plain = {clients: measure(stack, plan, clients, stream=False) for clients in CLIENTS}
    streams = {clients: measure(stack, plan, clients, stream=True) for clients in STREAMS}
    memory = measure_memory(stack, plan.memory_mb)
    lines = [
        f"{plan.rounds} rounds; {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {stack.litellm}.",
        "",
    ]
    for clients, cells in plain.items():
        lines += [f"Chat, one JSON answer, {clients} client(s):", "", *times_table(cells), ""]
    for clients, cells in streams.items():
        lines += [
            f"Chat, a stream of {CHUNKS} events, {clients} client(s):",
            "",
            *times_table(cells),
            "",
        ]
    lines += ["| target | at most | measured, median (least to most) | |", "|---|---|---|---|"]
    lines += [target.row() for target in targets(plain, streams)]
    lines += ["", f"Memory while {plan.memory_mb} MB of bodies with pictures pass, MiB:", ""]
    lines += ["| tier | start | after a tenth | peak | end |", "|---|---|---|---|---|"]
    return lines + [run.row() for run in memory]


def measure(stack: Stack, plan: Plan, clients: int, *, stream: bool) -> dict[str, Rounds]:
    """Of each path and round the milliseconds of each request; the paths take turns in a round."""
    requests = (STREAMS if stream else CLIENTS)[clients]
    requests = max(clients, int(requests * plan.effort) // clients * clients)
    cells: dict[str, list[list[float]]] = {path: [] for path in stack.bases}
    for number in range(plan.rounds):
        for path, base in stack.bases.items():
            _tell(f"{'streams' if stream else 'chat'}, {clients} client(s), round {number + 1}, {path}")
            cells[path].append(stack.load.run(Order(base + CHAT, clients, requests, stream)))
    return dict(cells)


def targets(plain: dict[int, dict[str, Rounds]], streams: dict[int, dict[str, Rounds]]) -> list[Target]:
    one = plain[1]
    stream = streams[1]
    per_chunk = added(_per_chunk(stream["both"]), _per_chunk(stream["direct"]))
    found = [
        Target("both hops, p50, 1 client, ms", 1.0, added(one["both"], one["direct"])),
        Target("both hops, p50, 16 clients, ms", 5.0, added(plain[16]["both"], plain[16]["direct"])),
        Target("both hops, per event of a stream, 1 client, ms", 0.05, per_chunk),
    ]
    for clients, cells in plain.items():
        other = cells.get("litellm")
        figure = share(cells["both"], other, cells["direct"]) if other else None
        found.append(Target(f"both hops / LiteLLM, {clients} client(s)", 0.3, figure))
    return found


def _per_chunk(rounds: Rounds) -> Rounds:
    return [[ms / CHUNKS for ms in one] for one in rounds]


def measure_memory(stack: Stack, megabytes: int) -> list[MemoryRun]:
    """Send *megabytes* of bodies with large pictures through both tiers, two at a time."""
    number = max(10, round(megabytes * 1e6 / (IMAGE_BYTES * 4 / 3)))
    url = f"{stack.bases['both']}/v1/vision/analyze"
    seen: dict[str, list[int]] = {tier: [memory_of(pid)] for tier, pid in stack.tiers.items()}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            for tier, pid in stack.tiers.items():
                seen[tier].append(memory_of(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        _tell(f"{number} pictures of {IMAGE_BYTES / 1e6:.0f} MB")
        tenth = number // 10
        stack.load.run(Order(url, 2, tenth, image_bytes=IMAGE_BYTES))
        after_tenth = {tier: memory_of(pid) for tier, pid in stack.tiers.items()}
        stack.load.run(Order(url, 2, number - tenth, image_bytes=IMAGE_BYTES))
        time.sleep(0.5)
    finally:
        over.set()
        sampler.join()
    return [
        MemoryRun(tier, values[0], after_tenth[tier], max(values), memory_of(stack.tiers[tier]))
        for tier, values in seen.items()
    ]


def _tell(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
