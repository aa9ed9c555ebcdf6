"""``python -m bench.performance [--quick]``: writes docs/dev/performance.md from the latest results.

Each generated part of the document is between two comments (``testkit.document``); the rest is
written by hand. A quick run has too few rounds to publish, so its report is written to
``bench/out/quick``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.benchmark import OUT, results_file
from bench.markdown import section, summary
from bench.plots import plot
from bench.results import Results, read
from bench.stack import ROOT
from testkit.document import with_section

BENCHMARKS = ("overhead", "vlm", "image", "cold")
DOCUMENT = ROOT / "docs" / "dev" / "performance.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.performance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use the latest quick run")
    quick: bool = parser.parse_args(argv).quick
    try:
        runs = [read(results_file(name, quick=quick)) for name in BENCHMARKS]
    except (OSError, ValueError) as exc:
        print(f"no report: {exc}", file=sys.stderr)
        return 1
    target = OUT / "quick" / DOCUMENT.name if quick else DOCUMENT
    target.write_text(written(DOCUMENT.read_text(), runs))
    for run in runs:
        plot(run, target.parent / plot_file(run.name))
    print(summary(runs))
    print(f"\nwritten: {target.relative_to(ROOT)}", file=sys.stderr)
    return 0


def written(text: str, runs: Sequence[Results]) -> str:
    """*text* of the document with the parts of *runs*; raises ``LookupError`` if a place is missing."""
    text = with_section(text, "summary", summary(runs))
    for run in runs:
        body = f"![{alternative(run)}]({plot_file(run.name)})\n\n{section(run)}"
        text = with_section(text, run.name, body)
    return text


def plot_file(name: str) -> Path:
    return Path(f"performance-{name}.svg")


def alternative(run: Results) -> str:
    titles = "; ".join(comparison.title for comparison in run.found.comparisons)
    return f"Ratios with their spread: {titles}"


if __name__ == "__main__":
    sys.exit(main())
