"""``python -m bench.vlm [--rounds N] [--quick]``: the VLM engine beside its peers.

Our worker, ``mlx_vlm.server`` and bare ``stream_generate`` answer the same conversations about the
same checkpoint (``bench.vlm_prompts``), greedy, in turn, in the same run. Every prompt and picture of
the throughput rows is new, so that no cache helps; the rows about caches say so. A second, shorter
part of a run gives the others our worker's precision and BLAS (``bench.vlm_peers``).
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

from bench.benchmark import Plan, run, turn
from bench.results import Better, Comparison, Figure, Found, Ratio
from bench.vlm_peers import BARE, OURS, SERVER, Answer, Peer, Run, peers
from bench.vlm_prompts import Message, Pictures, body, next_turn, question

ANSWER = 64  # tokens
LONG_PROMPT = 5  # pictures: 500 tokens
LONG_ANSWER, SHORT_ANSWER = 96, 16
TEXT, PICTURE = "a short question", "a new image and a question"  # the loads of the throughput rows
CLIENTS = {TEXT: (1, 4, 8, 16), PICTURE: (1, 8)}
FEW_CLIENTS = {TEXT: (1, 8), PICTURE: (1, 8)}  # on the level field, and in a quick run
MIXED = "4 long and 4 short concurrently"
CASES = ("new images", "the same again", "next turn")
TARGETS = {(BARE, 1): 1.0, (SERVER, 8): 1.5}  # tokens per second, by peer and clients

Loads = Mapping[str, tuple[int, ...]]  # of each load the numbers of clients


@dataclass
class Figures:
    """A value a round. ``throughput``: by load, peer, clients; ``firsts``: seconds, by peer, case."""

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
    """Fill *figures*, after a round that does not count. *caches*: first tokens, the mixed load too."""
    pictures = Pictures(seed=1)
    what = "vlm, as users have them" if caches else "vlm, on a level field"
    for number in range(-1, plan.rounds):
        turn(number, plan.rounds, what)
        told = Figures() if number < 0 else figures
        names = list(running) if number % 2 else list(reversed(running))
        for load, clients in ((load, clients) for load, each in counts.items() for clients in each):
            shown = 1 if load == PICTURE else 0
            order = [[body(question(list(islice(pictures, shown))), ANSWER)] for _ in range(clients)]
            for name in names:
                if name != BARE or clients == 1:
                    answered = running[name](order)
                    whole(answered, name)
                    told.throughput.setdefault((load, name, clients), []).append(answered)
        if not caches or number < 0:
            continue
        for name in names:
            for case, seconds in first_tokens(running[name], pictures).items():
                told.firsts.setdefault((name, case), []).append(seconds)
            if name != BARE:
                told.mixed.setdefault(name, []).append(mixed(running[name], pictures))


def whole(run: Run, name: str) -> None:
    """All answers are as long as was asked for, or the rates of peers can't be compared."""
    if wrong := [answer for answer in run.all if answer.tokens != ANSWER]:
        raise SystemExit(f"{name}: {wrong[0].tokens} tokens, not {ANSWER}: {wrong[0].text!r}")


def first_tokens(peer: Peer, pictures: Pictures) -> dict[str, float]:
    """Seconds to the first token of each case, alone."""

    def ask(messages: list[Message]) -> Answer:
        return peer([[body(messages, 8)]]).all[0]

    first = question([next(pictures) for _ in range(LONG_PROMPT)])
    again = [*question([], "Anything else?")]
    again[0]["content"] = [*first[0]["content"][:-1], {"type": "text", "text": "Once more."}]
    answers = [ask(first), ask(again)]
    answers.append(ask(next_turn(first, answers[0].text)))
    return {case: answer.first_s for case, answer in zip(CASES, answers, strict=True)}


def mixed(peer: Peer, pictures: Pictures) -> Run:
    """Eight clients: four with long prompts and answers, four that ask a short question."""
    long = [
        [body(question([next(pictures) for _ in range(LONG_PROMPT)]), LONG_ANSWER)] for _ in range(4)
    ]
    short = [[body(question([]), SHORT_ANSWER) for _ in range(4)] for _ in range(4)]
    return peer([*long, *short])


# --- what follows from it ---------------------------------------------------------------------------


def found(figures: Figures, level: Figures) -> Found:
    comparisons = [
        Comparison("Tokens per second, as their users have them", throughput(figures, targets=True)),
        Comparison("Tokens per second, on a level field", throughput(level)),
        Comparison("Time to the first token", firsts(figures)),
    ]
    versions = (f"mlx-vlm {version('mlx-vlm')} (its server, and stream_generate by itself)",)
    return Found(versions, tuple(comparisons), (grown(figures), sooner(figures)))


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
    """Milliseconds to the first text; of the mixed load the median of a round."""
    ratios = []
    for case, peer in product(CASES, (SERVER, BARE)):
        mine, theirs = (ms(figures.firsts[name, case]) for name in (OURS, peer))
        ratios.append(Ratio(f"{case}, 1 client", peer, "ms", Better.LESS, mine, theirs))
    for who, those in (("the short ones", slice(4, None)), ("the long ones", slice(4))):
        mine, theirs = (
            ms(median(a.first_s for client in run.answers[those] for a in client) for run in runs)
            for runs in (figures.mixed[OURS], figures.mixed[SERVER])
        )
        ratios.append(Ratio(f"{MIXED}: {who}", SERVER, "ms", Better.LESS, mine, theirs))
    return tuple(ratios)


def ms(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(one * 1e3 for one in seconds)


def grown(figures: Figures) -> Figure:
    one, eight = (figures.throughput[TEXT, OURS, clients] for clients in (1, 8))
    times = tuple(b.tokens_per_s / a.tokens_per_s for a, b in zip(one, eight, strict=True))
    what = f"our tokens per second: 8 clients / 1 client, {TEXT}"
    return Figure(what, "", Better.MORE, times, target=3.0)


def sooner(figures: Figures) -> Figure:
    new, again = (figures.firsts[OURS, case] for case in CASES[:2])
    times = tuple(a / b for a, b in zip(new, again, strict=True))
    what = f"our time to the first token: {CASES[0]} / {CASES[1]}"
    return Figure(what, "", Better.MORE, times, target=10.0)


if __name__ == "__main__":
    sys.exit(run("vlm", measure, about=__doc__.splitlines()[0], rounds=(5, 1)))
