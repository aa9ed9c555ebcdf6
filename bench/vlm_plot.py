"""The picture of ``bench.vlm``: tokens per second by the number of clients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import Spread
from bench.vlm_peers import BARE, Run

_COLORS = ("#1f6f8b", "#c8553d", "#6b7280")


def plot(throughput: Mapping[tuple[str, str, int], list[Run]], file: Path) -> None:
    """Draw *throughput*, by load, peer and clients, into *file* (PNG); whiskers: least to most."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    loads = list(dict.fromkeys(load for load, _, _ in throughput))
    figure, panels = pyplot.subplots(1, len(loads), figsize=(4.6 * len(loads), 3.9), dpi=110)
    for load, axes in zip(loads, panels, strict=True):
        own = {(peer, n): runs for (at, peer, n), runs in throughput.items() if at == load}
        _draw(axes, own)
        axes.set_title(load, fontsize=10)
    panels[0].set_ylabel("tokens per second, in all")
    panels[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def _draw(axes: Any, throughput: Mapping[tuple[str, int], list[Run]]) -> None:
    counts = sorted({clients for _, clients in throughput})
    for name, color in zip(dict.fromkeys(name for name, _ in throughput), _COLORS, strict=True):
        own = [clients for peer, clients in throughput if peer == name]
        spreads = [Spread.of(run.tokens_per_s for run in throughput[name, n]) for n in own]
        middles = [spread.middle for spread in spreads]
        if name == BARE:
            axes.axhline(middles[0], color=color, linestyle="--", label=f"{name}, one at a time")
            continue
        reach = [[s.middle - s.low for s in spreads], [s.high - s.middle for s in spreads]]
        axes.errorbar(own, middles, yerr=reach, color=color, marker="o", capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients at a time")
    axes.grid(alpha=0.3)
