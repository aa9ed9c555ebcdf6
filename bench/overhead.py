"""``python -m bench.overhead [--rounds N] [--quick]``: the cost of both hops, against LiteLLM's proxy.

Each round sends the same requests directly to a fake worker, through the manager, through both tiers,
and through LiteLLM's proxy in front of the same worker, alternately. Compared are the whole request
and the time that a path adds to the direct one. Memory is sampled while bodies with large images pass.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median

from bench.benchmark import Plan, report_progress, run
from bench.load import Order
from bench.results import Better, Comparison, Figure, Found, Ratio, percentile
from bench.stack import BOTH, DIRECT, LITELLM, MANAGER, Stack, memory_of, running
from bench.worker import CHAT, CHUNKS

CLIENTS = {1: 300, 16: 960, 64: 1280}  # -> requests per round
STREAMS = {1: 60, 16: 160}
WARM_UP = 50  # requests per path, before the first round
QUICK = 0.2  # the share of requests and images in a quick run
IMAGE_BYTES = 6_000_000  # per image; its JSON body is a third larger
IMAGES = 25  # of that size per round: 200 MB of bodies
SAMPLE_S = 0.05
MIB = 2**20
P50, P99 = 0.5, 0.99

Kind = tuple[bool, int]  # is it a stream?, number of clients
Took = Mapping[str, list[list[float]]]  # by path: for each round, milliseconds of each request


@dataclass(slots=True)
class Measured:
    """One value per round. Bytes: after the chats, and the peak while large bodies pass."""

    took: dict[Kind, dict[str, list[list[float]]]] = field(default_factory=dict)
    resting: dict[str, list[int]] = field(default_factory=dict)
    peaks: dict[str, list[int]] = field(default_factory=dict)


def measure(plan: Plan) -> Found:
    measured = Measured()
    with running() as stack:
        for stream in (False, True):
            for base in stack.bases.values():
                stack.load.run(Order(base + CHAT, 1, WARM_UP, stream))
        for number in range(plan.rounds):
            report_progress(number, plan.rounds, "overhead")
            one_round(stack, plan, number, measured)
        return found(measured, stack.litellm)


def one_round(stack: Stack, plan: Plan, number: int, measured: Measured) -> None:
    effort = QUICK if plan.quick else 1.0
    paths = list(stack.bases) if number % 2 else list(reversed(stack.bases))
    for stream, counts in ((False, CLIENTS), (True, STREAMS)):
        for clients, requests in counts.items():
            each = max(1, int(requests * effort) // clients)
            cells = measured.took.setdefault((stream, clients), {path: [] for path in stack.bases})
            for path in paths:
                order = Order(stack.bases[path] + CHAT, clients, each * clients, stream)
                cells[path].append(stack.load.run(order))
    for tier, pid in stack.tiers.items():
        measured.resting.setdefault(tier, []).append(memory_of(pid))
    for tier, most in peaks_of(stack, max(4, round(IMAGES * effort))).items():
        measured.peaks.setdefault(tier, []).append(most)


def peaks_of(stack: Stack, images: int) -> dict[str, int]:
    """The peak memory of our tiers in bytes while large bodies pass through both, two concurrently."""
    own = {tier: pid for tier, pid in stack.tiers.items() if tier != LITELLM}
    seen: dict[str, list[int]] = {tier: [memory_of(pid)] for tier, pid in own.items()}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            for tier, pid in own.items():
                seen[tier].append(memory_of(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        stack.load.run(
            Order(f"{stack.bases[BOTH]}/v1/vision/analyze", 2, images, image_bytes=IMAGE_BYTES)
        )
    finally:
        over.set()
        sampler.join()
    return {tier: max(values) for tier, values in seen.items()}


# --- results ----------------------------------------------------------------------------------------


def found(measured: Measured, litellm: str) -> Found:
    return Found(
        versions=(litellm,),
        comparisons=(
            Comparison("Whole requests through both tiers", compare(measured, LITELLM, P50, P99)),
            Comparison("What the tiers add to a request, at the median", additions(measured)),
            Comparison("Whole requests, compared with no proxy", compare(measured, DIRECT, P50)),
            Comparison("Memory of both tiers, after the chats of a round", (memory(measured),)),
        ),
        figures=figures(measured),
    )


def compare(measured: Measured, peer: str, *shares: float) -> tuple[Ratio, ...]:
    """The requests through both tiers at these percentiles of each round."""
    ratios = []
    for (kind, took), share in product(measured.took.items(), shares):
        mine, theirs = (
            each_round(partial(percentile, share=share), took[path]) for path in (BOTH, peer)
        )
        case = f"{called(kind)}, p{share * 100:.0f}"
        ratios.append(Ratio(case, peer, "ms", Better.LESS, mine, theirs))
    return tuple(ratios)


def additions(measured: Measured) -> tuple[Ratio, ...]:
    return tuple(
        Ratio(
            called(kind),
            LITELLM,
            "ms",
            Better.LESS,
            added(took, BOTH),
            added(took, LITELLM),
            target=None if kind[0] else 0.3,
        )
        for kind, took in measured.took.items()
    )


def memory(measured: Measured) -> Ratio:
    own = (values for tier, values in measured.resting.items() if tier != LITELLM)
    mine = tuple(sum(of_round) / MIB for of_round in zip(*own, strict=True))
    theirs = tuple(value / MIB for value in measured.resting[LITELLM])
    return Ratio("gateway and manager", LITELLM, "MiB", Better.LESS, mine, theirs)


def figures(measured: Measured) -> tuple[Figure, ...]:
    chats = {clients: took for (stream, clients), took in measured.took.items() if not stream}
    per_event = tuple(ms / CHUNKS for ms in added(measured.took[True, 1], BOTH))
    less = Better.LESS
    return (
        Figure("both tiers add to a chat, p50, 1 client", "ms", less, added(chats[1], BOTH), 1.0),
        Figure("both tiers add to a chat, p50, 16 clients", "ms", less, added(chats[16], BOTH), 5.0),
        Figure("the manager alone adds, p50, 1 client", "ms", less, added(chats[1], MANAGER)),
        Figure("both tiers add to an event of a stream, 1 client", "ms", less, per_event, 0.05),
        *(
            Figure(
                f"{tier}: peak memory while 8 MB bodies pass, two concurrently",
                "MiB",
                less,
                tuple(value / MIB for value in values),
            )
            for tier, values in measured.peaks.items()
        ),
    )


def added(took: Took, path: str) -> tuple[float, ...]:
    """Milliseconds that *path* adds to the median request, round by round."""
    pairs = zip(each_round(median, took[path]), each_round(median, took[DIRECT]), strict=True)
    return tuple(through - direct for through, direct in pairs)


def each_round(of: Callable[[list[float]], float], rounds: list[list[float]]) -> tuple[float, ...]:
    return tuple(of(one) for one in rounds)


def called(kind: Kind) -> str:
    stream, clients = kind
    what = f"a stream of {CHUNKS} events" if stream else "a chat"
    return f"{what}, {clients} client{'s' if clients > 1 else ''}"


if __name__ == "__main__":
    sys.exit(run("overhead", measure, about=__doc__.splitlines()[0], rounds=(5, 2)))
