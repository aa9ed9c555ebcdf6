"""``python -m bench.vlm [--rounds N] [--quick] [--write]``: the VLM engine beside its peers.

Our worker, ``mlx_vlm.server`` and bare ``stream_generate`` answer the same conversations about the
same checkpoint (``bench.vlm_prompts``), greedy, in turn, in the same run. Every prompt and picture of
the throughput rows is new, so that no cache helps; the rows about caches say so. Ratios are taken
within a round. A second, shorter run gives the others our worker's precision and BLAS
(``bench.vlm_peers``).
``--write`` puts the report and its plot into docs/; the exit status is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path

from bench.document import write_section
from bench.report import Goal, Spread, percentile
from bench.vlm_peers import BARE, OURS, SERVER, Answer, Peer, Run, peers
from bench.vlm_plot import plot
from bench.vlm_prompts import ROOT, Message, Pictures, body, next_turn, question

CLIENTS = (1, 2, 4, 8, 16)
LEVEL_CLIENTS = (1, 8, 16)  # on the level field
ANSWER = 64  # tokens
LONG_PROMPT = 5  # pictures: 500 tokens
LONG_ANSWER, SHORT_ANSWER = 96, 16
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "vlm-throughput.png"


@dataclass
class Figures:
    """A value a round. ``throughput``: by load, peer, clients; ``firsts``: seconds, by peer, case."""

    throughput: dict[tuple[str, str, int], list[Run]] = field(default_factory=dict)
    firsts: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    mixed: dict[str, list[Run]] = field(default_factory=dict)

    def rates(self, load: str, peer: str, clients: int) -> list[float]:
        return [run.tokens_per_s for run in self.throughput[load, peer, clients]]

    def first_ms(self, peer: str, case: str) -> list[float]:
        """Milliseconds to the first text, of all rounds."""
        return [s * 1e3 for one in self.firsts[peer, case] for s in one]


TEXT, PICTURE = "a short question", "a new picture and a question"  # the loads of the throughput rows
CASES = ("new pictures", "the same again", "next turn")


def main() -> int:
    parse = argparse.ArgumentParser(prog="bench.vlm", description=__doc__.splitlines()[0])
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--requests", type=int, default=2, help="of a client in a round")
    parse.add_argument("--quick", action="store_true", help="one round, few requests: does it run?")
    parse.add_argument("--write", action="store_true", help=f"into {DOCUMENT.relative_to(ROOT)}")
    args = parse.parse_args()
    rounds, each = (1, 1) if args.quick else (args.rounds, args.requests)
    with tempfile.TemporaryDirectory() as name:
        with peers(Path(name) / "shipped", level=False) as running:
            figures = measure(running, rounds, each)
        with peers(Path(name) / "level", level=True) as running:
            level = measure(running, rounds, each, LEVEL_CLIENTS)
    lines = report(figures, level, rounds)
    print("\n".join(lines))
    if args.write:
        plot(figures.throughput, PLOT)
        write_section(DOCUMENT, "vlm", "\n".join(lines))
    return 0 if all(goal.met for goal in goals(figures)) else 1


def measure(
    running: dict[str, Peer], rounds: int, each: int, counts: Sequence[int] = CLIENTS
) -> Figures:
    """Everything *rounds* times, and once before that does not count; *each*: requests of a client.

    Of other *counts* of clients than all, the throughput alone.
    """
    figures = Figures()
    pictures = Pictures(seed=1)
    for number in range(-1, rounds):
        told = Figures() if number < 0 else figures
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for load, clients in product((TEXT, PICTURE), counts):
            shown = 1 if load == PICTURE else 0
            order = [
                [body(question(list(islice(pictures, shown))), ANSWER) for _ in range(each)]
                for _ in range(clients)
            ]
            for name in (OURS, SERVER, BARE):
                if name != BARE or clients == 1:
                    run = running[name](order)
                    whole(run, name)
                    told.throughput.setdefault((load, name, clients), []).append(run)
        if counts is not CLIENTS:
            continue
        for name, peer in running.items():
            for case, seconds in first_tokens(peer, pictures, 2 * each).items():
                told.firsts.setdefault((name, case), []).append(seconds)
        for name in (OURS, SERVER):
            told.mixed.setdefault(name, []).append(mixed(running[name], pictures, each))
    return figures


def whole(run: Run, name: str) -> None:
    """All answers are as long as was asked for, or the rates of peers can't be compared."""
    if wrong := [answer for answer in run.all if answer.tokens != ANSWER]:
        raise SystemExit(f"{name}: {wrong[0].tokens} tokens, not {ANSWER}: {wrong[0].text!r}")


def first_tokens(peer: Peer, pictures: Pictures, conversations: int) -> dict[str, list[float]]:
    """Seconds to the first token of each case, alone."""

    def ask(messages: list[Message]) -> Answer:
        return peer([[body(messages, 8)]]).all[0]

    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(conversations):
        first = question([next(pictures) for _ in range(LONG_PROMPT)])
        again = [*question([], "Anything else?")]
        again[0]["content"] = [*first[0]["content"][:-1], {"type": "text", "text": "Once more."}]
        answer = ask(first)
        seconds["new pictures"].append(answer.first_s)
        seconds["the same again"].append(ask(again).first_s)
        seconds["next turn"].append(ask(next_turn(first, answer.text)).first_s)
    return seconds


def mixed(peer: Peer, pictures: Pictures, each: int) -> Run:
    """Eight clients: four with long prompts and answers, four that ask a short question."""
    long = [
        [body(question([next(pictures) for _ in range(LONG_PROMPT)]), LONG_ANSWER) for _ in range(each)]
        for _ in range(4)
    ]
    short = [[body(question([]), SHORT_ANSWER) for _ in range(4 * each)] for _ in range(4)]
    return peer([*long, *short])


# --- the report -------------------------------------------------------------------------------------


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Ours over theirs, round by round."""
    return Spread.of(mine / other for mine, other in zip(ours, theirs, strict=True))


def goals(figures: Figures) -> list[Goal]:
    cold, again = (figures.firsts[OURS, case] for case in CASES[:2])
    sooner = [percentile(a, 0.5) / percentile(b, 0.5) for a, b in zip(cold, again, strict=True)]
    found = []
    for load in (TEXT, PICTURE):
        one, eight = (figures.rates(load, OURS, clients) for clients in (1, 8))
        bare, server = figures.rates(load, BARE, 1), figures.rates(load, SERVER, 8)
        found += [
            Goal(f"{load}: 1 client, tokens/s, ours / bare", 1.0, ratio(one, bare)),
            Goal(f"{load}: 8 clients, tokens/s, ours / server", 1.5, ratio(eight, server)),
        ]
    one, eight = (figures.rates(TEXT, OURS, clients) for clients in (1, 8))
    return [
        *found,
        Goal(f"{TEXT}: ours, tokens/s, 8 clients / 1 client", 3.0, ratio(eight, one)),
        Goal("ours, first token: new pictures / the same again", 10.0, Spread.of(sooner)),
    ]


def report(figures: Figures, level: Figures, rounds: int) -> list[str]:
    lines = [
        f"{rounds} rounds; {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}, the demo's Qwen2.5-VL. Median (least to most) of the rounds.",
    ]
    for load in (TEXT, PICTURE):
        lines += ["", f"Tokens per second, {load}, answers of {ANSWER} tokens:", ""]
        lines += throughput_table(figures, load, CLIENTS)
    lines += [
        "",
        f"Milliseconds to the first token, one client, {LONG_PROMPT} pictures (over 500 tokens),"
        " p50 / p95:",
        "",
        "| case | ours | mlx_vlm.server | bare |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        values = [figures.first_ms(peer, case) for peer in (OURS, SERVER, BARE)]
        lines.append(f"| {case} | {' | '.join(p50_p95(one) for one in values)} |")
    lines += [
        "",
        "A mixed load, 4 clients with long prompts and answers and 4 with short questions:",
        "",
        "| | tokens/s | short ones: first token, p50 / p95 ms | long ones |",
        "|---|---|---|---|",
    ]
    for peer, runs in figures.mixed.items():
        rates = Spread.of(run.tokens_per_s for run in runs).text(0)
        long = [a.first_s * 1e3 for run in runs for client in run.answers[:4] for a in client]
        short = [a.first_s * 1e3 for run in runs for client in run.answers[4:] for a in client]
        lines.append(f"| {peer} | {rates} | {p50_p95(short)} | {p50_p95(long)} |")
    lines += ["", "| target | at least | measured | |", "|---|---|---|---|"]
    lines += [goal.row() for goal in goals(figures)]
    for load in (TEXT, PICTURE):
        lines += ["", f"On a level field (float32 weights and the same BLAS for all), {load}:", ""]
        lines += throughput_table(level, load, LEVEL_CLIENTS)
    return lines


def throughput_table(figures: Figures, load: str, counts: Sequence[int]) -> list[str]:
    lines = [
        "| clients | ours | mlx_vlm.server | ours / server | bare | of one client, ours | server |",
        "|---|---|---|---|---|---|---|",
    ]
    for clients in counts:
        ours, server = (figures.rates(load, peer, clients) for peer in (OURS, SERVER))
        bare = Spread.of(figures.rates(load, BARE, 1)).text(0) if clients == 1 else ""
        own = [f"{one_client(figures.throughput[load, peer, clients]):.0f}" for peer in (OURS, SERVER)]
        cells = [str(clients), Spread.of(ours).text(0), Spread.of(server).text(0)]
        lines.append(f"| {' | '.join([*cells, ratio(ours, server).text(), bare, *own])} |")
    return lines


def p50_p95(values: list[float]) -> str:
    return f"{percentile(values, 0.5):.0f} / {percentile(values, 0.95):.0f}"


def one_client(runs: list[Run]) -> float:
    """Tokens per second that a client sees, from its request to the end of the answer."""
    return percentile([answer.tokens / answer.total_s for run in runs for answer in run.all], 0.5)


if __name__ == "__main__":
    sys.exit(main())
