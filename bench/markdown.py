"""Results as Markdown, for docs/dev/performance.md and the terminal. Pure.

Rules: every figure has its spread next to it; places where a peer is ahead and missed targets are
always listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.results import ENOUGH, Better, Comparison, Figure, Ratio, Results, Spread, Stance

QUIET = 0.1  # of the CPU; a busier machine is reported


def section(results: Results) -> str:
    """All tables of one benchmark, without its title."""
    lines = [f"{_rounds(results)}, {_minutes(results.took_s)}; {', '.join(results.found.versions)}."]
    if results.busy > QUIET:
        lines.append(
            f"**Other programs used {results.busy:.0%} of the CPU just before this run**, "
            "which widens the spread."
        )
    for comparison in results.found.comparisons:
        lines += ["", *_comparison(comparison)]
    if results.found.figures:
        lines += [
            "",
            "Without a peer:",
            "",
            "| | median (minimum to maximum) | target | |",
            "|---|---|---|---|",
        ]
        lines += [_figure_row(figure) for figure in results.found.figures]
    return "\n".join(lines)


def summary(runs: Sequence[Results]) -> str:
    """Duration and machine, all targets, and the cases where a peer is ahead."""
    machines = list(dict.fromkeys(run.machine for run in runs))
    minutes = _minutes(sum(run.took_s for run in runs))
    lines = [f"Measured in {minutes} on: {'; '.join(machines)}.", ""]
    lines += ["| target | | measured, median (minimum to maximum) | |", "|---|---|---|---|"]
    for run in runs:
        ratios = [r for comparison in run.found.comparisons for r in comparison.ratios]
        lines += [_target_row(_name(run, r), r, _spread(r.spread)) for r in ratios if r.met is not None]
        lines += [
            _target_row(f"{run.name}: {f.what}", f, f"{_spread(f.spread)} {f.unit}".rstrip())
            for f in run.found.figures
            if f.met is not None
        ]
    behind = [
        f"* {_name(run, ratio, comparison)}: {_spread(ratio.spread)}"
        for run in runs
        for comparison in run.found.comparisons
        for ratio in comparison.ratios
        if ratio.stance is Stance.BEHIND
    ]
    lines += ["", "**Where the peer was ahead in every round** (ours / theirs):", ""]
    if few := [run.name for run in runs if run.rounds < ENOUGH]:
        behind.append(f"* not reported for {', '.join(few)}: fewer than {ENOUGH} rounds")
    return "\n".join([*lines, *(behind or ["* nowhere"])])


def _comparison(comparison: Comparison) -> Iterable[str]:
    unit = comparison.unit
    yield f"{comparison.title} ({comparison.better} is better):"
    yield ""
    yield f"| | peer | ours, {unit} | theirs, {unit} | ours / theirs | target | |"
    yield "|---|---|---|---|---|---|---|"
    for ratio in comparison.ratios:
        mine, theirs = (_spread(Spread.of(values)) for values in (ratio.mine, ratio.theirs))
        own = f"| {ratio.case} | {ratio.peer} | {mine} | {theirs} | **{number(ratio.spread.middle)}**"
        yield f"{own} {_reach(ratio.spread)} | {_aim(ratio)} | {_verdict(ratio) or ratio.stance} |"


def _figure_row(figure: Figure) -> str:
    value = f"{_spread(figure.spread)} {figure.unit}".rstrip()
    return f"| {figure.what} | {value} | {_aim(figure)} | {_verdict(figure)} |"


def _target_row(name: str, figure: Ratio | Figure, value: str) -> str:
    return f"| {name} | {_aim(figure)} | {value} | {_verdict(figure)} |"


def _name(run: Results, ratio: Ratio, comparison: Comparison | None = None) -> str:
    title = f" {comparison.title[0].lower()}{comparison.title[1:]}," if comparison else ""
    return f"{run.name}:{title} {ratio.case}, ours / {ratio.peer}"


def _aim(figure: Ratio | Figure) -> str:
    if figure.target is None:
        return ""
    return f"at {'most' if figure.better is Better.LESS else 'least'} {figure.target:g}"


def _verdict(figure: Ratio | Figure) -> str:
    return {None: "", True: "met", False: "**MISSED**"}[figure.met]


def _spread(spread: Spread) -> str:
    return f"{number(spread.middle)} {_reach(spread)}"


def _reach(spread: Spread) -> str:
    return f"({number(spread.low)} to {number(spread.high)})"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = next((digits for least, digits in ((100, 0), (10, 1), (1, 2)) if abs(value) >= least), 3)
    return f"{value:.{digits}f}"


def _rounds(results: Results) -> str:
    return f"{results.rounds} round{'s' if results.rounds != 1 else ''}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
