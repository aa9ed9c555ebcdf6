"""The options of all benchmarks of ``make bench``, and where results are saved.

``--quick`` is a short run that shows that everything works; its results are kept apart, in
``out/quick``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import busy, machine
from bench.markdown import section
from bench.results import Found, Results, save
from bench.stack import ROOT, NotStarted

OUT = ROOT / "bench" / "out"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    quick: bool


def results_file(name: str, *, quick: bool) -> Path:
    return OUT / ("quick" if quick else "full") / f"{name}.json"


def run(
    name: str,
    measure: Callable[[Plan], Found],
    *,
    about: str,
    rounds: tuple[int, int],
    argv: Sequence[str] | None = None,
) -> int:
    """Measure, save the results and print them. *rounds*: of a full run, and of a quick one."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--rounds", type=int, help=f"default: {rounds[0]}, or {rounds[1]} with --quick")
    args = parser.parse_args(argv)
    plan = Plan(max(1, args.rounds or rounds[args.quick]), args.quick)
    others, began = busy(), time.monotonic()
    try:
        found = measure(plan)
    except NotStarted as exc:
        print(exc, file=sys.stderr)
        return 1
    took_s = time.monotonic() - began
    results = Results(name, machine(), others, plan.rounds, plan.quick, took_s, found)
    save(results, results_file(name, quick=plan.quick))
    print(section(results))
    return 0


def report_progress(number: int, rounds: int, what: str) -> None:
    """Print the current round. *number* counts from 0; -1 is the warm-up round."""
    where = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up round"
    print(f"{what}: {where}", file=sys.stderr, flush=True)
