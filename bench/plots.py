"""Plots of results as SVG: one file per benchmark, one panel per comparison.

A row is a ratio: a dot at its median, a line from the minimum to the maximum of its rounds, and a
faint dot for each round. The axis is logarithmic, so that 2 and 1/2 are equally far from 1. The
background is white, so that dark pages show it as well. The same results give the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import Better, Comparison, Ratio, Results, Stance

_COLORS = {Stance.AHEAD: "#1f6f8b", Stance.UNCLEAR: "#6b7280", Stance.BEHIND: "#c8553d"}
_SHAPES = {Stance.AHEAD: "o", Stance.UNCLEAR: "s", Stance.BEHIND: "D"}  # colour is not the only sign
_ROW_IN, _FRAME_IN, _WIDTH_IN = 0.24, 0.95, 8.0


def plot(results: Results, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "bench",
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        "font.size": 9,
    }
    from matplotlib import pyplot

    comparisons = results.found.comparisons
    heights = [_ROW_IN * len(comparison.ratios) + _FRAME_IN for comparison in comparisons]
    figure, panels = pyplot.subplots(
        len(comparisons),
        figsize=(_WIDTH_IN, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
        facecolor="white",
    )
    for comparison, axes in zip(comparisons, panels[:, 0], strict=True):
        _panel(axes, comparison)
    _legend(figure, pyplot, results)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


def labels(ratios: Sequence[Ratio]) -> list[str]:
    """The label of each row; it includes the peer if there are several."""
    several = len({ratio.peer for ratio in ratios}) > 1
    return [f"{ratio.case} / {ratio.peer}" if several else ratio.case for ratio in ratios]


def marks(low: float, high: float) -> list[float]:
    """At most six round numbers on the axis, around *low* to *high* and 1."""
    fine = [base * 10.0**power for power in range(-4, 5) for base in (1, 2, 5)]
    low, high = min(low, 1.0), max(high, 1.0)
    first = max((at for at in fine if at <= low), default=fine[0])
    last = min((at for at in fine if at >= high), default=fine[-1])
    inside = [at for at in fine if first <= at <= last]
    if len(inside) <= 6:
        return inside
    return sorted({*(at for at in inside if round(at / 10 ** _power(at)) == 1), first, last})


def _power(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _panel(axes: Any, comparison: Comparison) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ratios = comparison.ratios
    for row, ratio in enumerate(ratios):
        spread, stance = ratio.spread, ratio.stance
        color = _COLORS[stance]
        axes.plot(ratio.rounds, [row] * len(ratio.rounds), ".", color=color, alpha=0.35, zorder=2)
        axes.hlines(row, spread.low, spread.high, color=color, linewidth=1.6, zorder=3)
        axes.plot(spread.middle, row, _SHAPES[stance], color=color, markersize=6, zorder=4)
        if ratio.target is not None:
            axes.plot(ratio.target, row, "|", color="black", markersize=13, zorder=5)
    axes.axvline(1, color="black", linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    rounds = [value for ratio in ratios for value in ratio.rounds]
    aims = [ratio.target for ratio in ratios if ratio.target is not None]
    at = marks(min(rounds + aims), max(rounds + aims))
    axes.set_xlim(at[0] / 1.08, at[-1] * 1.08)
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(ratios)), labels(ratios))
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(comparison.title, fontsize=9.5, loc="left")
    peers = dict.fromkeys(ratio.peer for ratio in ratios)
    whom = next(iter(peers)) if len(peers) == 1 else "the peer's"
    side = "← ours is better" if comparison.better is Better.LESS else "ours is better →"
    axes.set_xlabel(f"{comparison.unit}: ours / {whom}   ({side})")


def _legend(figure: Any, pyplot: Any, results: Results) -> None:
    def handle(shape: str, color: str) -> Any:
        return pyplot.Line2D([], [], marker=shape, color=color, linestyle="none")

    shown = [handle(_SHAPES[stance], _COLORS[stance]) for stance in Stance] + [handle("|", "black")]
    names = ["ahead in every round", "no clear difference", "behind in every round", "target"]
    title = f"median, minimum and maximum of {results.rounds} rounds"
    figure.legend(shown, names, ncols=4, loc="outside lower center", frameon=False, title=title)
