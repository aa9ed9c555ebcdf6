"""``python -m bench.vlm [--rounds N] [--quick]``: the VLM engine compared with its peers.

Our worker, ``mlx_vlm.server`` and bare ``stream_generate`` complete the same conversations with the
same checkpoint (``bench.vlm_prompts``), with greedy decoding, alternately in one run. Every prompt and
image of the throughput rows is new, so that no cache helps; the rows about caches say so. A second,
shorter part gives the peers our worker's precision and BLAS (``bench.vlm_peers``).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from statistics import median

from bench.benchmark import Plan, report_progress, run
from bench.results import Better, Comparison, Figure, Found, Ratio
from bench.vlm_peers import BARE, OURS, SERVER, Answer, Peer, Run, peers
from bench.vlm_prompts import Images, Message, body, next_turn, question

COMPLETION = 64  # tokens
LONG_PROMPT = 5  # images: 500 tokens
LONG_ANSWER, SHORT_ANSWER = 96, 16
TEXT, IMAGE = "a short question", "a new image and a question"  # the loads of the throughput rows
CLIENTS = {TEXT: (1, 4, 8, 16), IMAGE: (1, 8)}
FEW_CLIENTS = {TEXT: (1, 8), IMAGE: (1, 8)}  # on the level field, and in a quick run
MIXED = "4 long and 4 short concurrently"
CASES = ("new images", "the same again", "next turn")
TARGETS = {(BARE, 1): 1.0, (SERVER, 8): 1.5}  # tokens per second, by peer and clients

Loads = Mapping[str, tuple[int, ...]]  # load -> numbers of clients


@dataclass
class Figures:
    """One value per round. ``throughput``: by load, peer, clients; ``firsts``: s, by peer and case."""

    throughput: dict[tuple[str, str, int], list[Run]] = field(default_factory=dict)
    firsts: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    mixed: dict[str, list[Run]] = field(default_factory=dict)


def measure(plan: Plan) -> Found:
    figures, level = Figures(), Figures()
    counts = FEW_CLIENTS if plan.quick else CLIENTS
    with tempfile.TemporaryDirectory() as name:
        with peers(Path(name) / "shipped", level=False) as running:
            in_rounds(running, plan, counts, figures, caches=True)
        with peers(Path(name) / "level", level=True) as running:
            in_rounds(running, plan, FEW_CLIENTS, level, caches=False)
    return found(figures, level)


def in_rounds(
    running: dict[str, Peer], plan: Plan, counts: Loads, figures: Figures, *, caches: bool
) -> None:
    """Fill *figures*, after a warm-up round. *caches*: also measure first tokens and the mixed load."""
    images = Images(seed=1)
    what = "vlm, as shipped" if caches else "vlm, on a level field"
    for number in range(-1, plan.rounds):
        report_progress(number, plan.rounds, what)
        kept = Figures() if number < 0 else figures
        names = list(running) if number % 2 else list(reversed(running))
        for load, clients in ((load, clients) for load, each in counts.items() for clients in each):
            count = 1 if load == IMAGE else 0
            order = [[body(question(list(islice(images, count))), COMPLETION)] for _ in range(clients)]
            for name in names:
                if name != BARE or clients == 1:
                    result = running[name](order)
                    require_whole(result, name)
                    kept.throughput.setdefault((load, name, clients), []).append(result)
        if not caches or number < 0:
            continue
        for name in names:
            for case, seconds in first_tokens(running[name], images).items():
                kept.firsts.setdefault((name, case), []).append(seconds)
            if name != BARE:
                kept.mixed.setdefault(name, []).append(mixed(running[name], images))


def require_whole(run: Run, name: str) -> None:
    """End the run unless all completions have full length: otherwise the rates are not comparable."""
    if wrong := [answer for answer in run.all if answer.tokens != COMPLETION]:
        raise SystemExit(f"{name}: {wrong[0].tokens} tokens, not {COMPLETION}: {wrong[0].text!r}")


def first_tokens(peer: Peer, images: Images) -> dict[str, float]:
    """Seconds to the first token in each case, with one client."""

    def ask(messages: list[Message]) -> Answer:
        return peer([[body(messages, 8)]]).all[0]

    first = question([next(images) for _ in range(LONG_PROMPT)])
    again = [*question([], "Anything else?")]
    again[0]["content"] = [*first[0]["content"][:-1], {"type": "text", "text": "Once more."}]
    answers = [ask(first), ask(again)]
    answers.append(ask(next_turn(first, answers[0].text)))
    return {case: answer.first_s for case, answer in zip(CASES, answers, strict=True)}


def mixed(peer: Peer, images: Images) -> Run:
    """Eight clients: four with long prompts and completions, four with short questions."""
    long = [[body(question([next(images) for _ in range(LONG_PROMPT)]), LONG_ANSWER)] for _ in range(4)]
    short = [[body(question([]), SHORT_ANSWER) for _ in range(4)] for _ in range(4)]
    return peer([*long, *short])


# --- results ----------------------------------------------------------------------------------------


def found(figures: Figures, level: Figures) -> Found:
    comparisons = [
        Comparison("Tokens per second, as shipped", throughput(figures, targets=True)),
        Comparison("Tokens per second, on a level field", throughput(level)),
        Comparison("Time to the first token", firsts(figures)),
    ]
    versions = (f"mlx-vlm {version('mlx-vlm')} (its server, and bare stream_generate)",)
    return Found(versions, tuple(comparisons), (batch_gain(figures), cache_gain(figures)))


def throughput(figures: Figures, *, targets: bool = False) -> tuple[Ratio, ...]:
    ratios = []
    for (load, name, clients), runs in figures.throughput.items():
        if name == OURS:
            continue
        mine = tuple(run.tokens_per_s for run in figures.throughput[load, OURS, clients])
        theirs = tuple(run.tokens_per_s for run in runs)
        target = TARGETS.get((name, clients)) if targets else None
        case = f"{load}, {clients} client{'s' if clients > 1 else ''}"
        ratios.append(Ratio(case, name, "tokens/s", Better.MORE, mine, theirs, target))
    if figures.mixed:
        mine, theirs = (tuple(r.tokens_per_s for r in figures.mixed[n]) for n in (OURS, SERVER))
        ratios.append(Ratio(MIXED, SERVER, "tokens/s", Better.MORE, mine, theirs))
    return tuple(ratios)


def firsts(figures: Figures) -> tuple[Ratio, ...]:
    """Milliseconds to the first text; for the mixed load the median of a round."""
    ratios = []
    for case, peer in product(CASES, (SERVER, BARE)):
        mine, theirs = (ms(figures.firsts[name, case]) for name in (OURS, peer))
        ratios.append(Ratio(f"{case}, 1 client", peer, "ms", Better.LESS, mine, theirs))
    for which, clients in (("the short ones", slice(4, None)), ("the long ones", slice(4))):
        mine, theirs = (
            ms(median(a.first_s for client in run.answers[clients] for a in client) for run in runs)
            for runs in (figures.mixed[OURS], figures.mixed[SERVER])
        )
        ratios.append(Ratio(f"{MIXED}: {which}", SERVER, "ms", Better.LESS, mine, theirs))
    return tuple(ratios)


def ms(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(one * 1e3 for one in seconds)


def batch_gain(figures: Figures) -> Figure:
    one, eight = (figures.throughput[TEXT, OURS, clients] for clients in (1, 8))
    times = tuple(b.tokens_per_s / a.tokens_per_s for a, b in zip(one, eight, strict=True))
    what = f"our tokens per second: 8 clients / 1 client, {TEXT}"
    return Figure(what, "", Better.MORE, times, target=3.0)


def cache_gain(figures: Figures) -> Figure:
    new, again = (figures.firsts[OURS, case] for case in CASES[:2])
    times = tuple(a / b for a, b in zip(new, again, strict=True))
    what = f"our time to the first token: {CASES[0]} / {CASES[1]}"
    return Figure(what, "", Better.MORE, times, target=10.0)


if __name__ == "__main__":
    sys.exit(run("vlm", measure, about=__doc__.splitlines()[0], rounds=(5, 1)))
