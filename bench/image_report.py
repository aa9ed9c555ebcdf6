"""From the times of ``bench.image`` to its table, its plot and its verdict."""

from __future__ import annotations

import os
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import Spread, Target

ROOT = Path(__file__).resolve().parents[1]
DOCS, PLOT = ROOT / "docs" / "images.md", ROOT / "docs" / "images.svg"
AS_FAST = 1.02  # of mflux in the same process
FLAT_MIB = 8.0  # more than that over the last four fifths of the pictures is a leak


@dataclass
class Results:
    """Seconds, a value a turn, of the engine and of mflux; and mebibytes after each picture."""

    new: dict[str, list[float]] = field(default_factory=dict)
    step: dict[str, list[float]] = field(default_factory=dict)
    again: dict[str, list[float]] = field(default_factory=dict)
    four: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, list[float]] = field(default_factory=dict)
    previews: list[tuple[float, float]] = field(default_factory=list)  # with, without
    memory: list[float] = field(default_factory=list)
    same_bytes: bool = True


def ratio(times: dict[str, list[float]], name: str = "engine", other: str = "mflux") -> Spread:
    return Spread.of(mine / bare for mine, bare in zip(times[name], times[other], strict=True))


def growth(memory: list[float]) -> float:
    """MiB between the first fifth of the pictures and the last, medians of both."""
    part = max(1, len(memory) // 5)
    return statistics.median(memory[-part:]) - statistics.median(memory[part : 2 * part])


def report(found: Results, what: str) -> tuple[list[str], bool]:
    """The table and the targets, as Markdown; and whether all are met. *what*: sizes and rounds."""
    rows = {
        "a picture, new prompt": found.new,
        "a step": found.step,
        "the same prompt again": found.again,
        "four pictures of one request": found.four,
    }
    lines = [
        f"`make bench-image`: {what}, the demo's checkpoint, {machine()}. Medians, with the smallest",
        "and the largest in brackets; ratios are taken within a round.",
        "",
        "| | engine, s | mflux in the same process, s | ratio |",
        "|---|---|---|---|",
    ]
    for row, both_times in rows.items():
        both = " | ".join(Spread.of(both_times[name]).text(3) for name in ("engine", "mflux"))
        lines.append(f"| {row} | {both} | {ratio(both_times).text(3)} |")
    overhead = Spread.of(shown / plain for shown, plain in found.previews)
    starts = {name: Spread.of(times) for name, times in found.start.items()}
    clis = zip(found.start["command line"], found.again["engine"], strict=False)
    times = Spread.of(cli / resident for cli, resident in clis)
    grown = growth(found.memory)
    lines += [
        "",
        f"* The first picture after the start of a process: engine {starts['engine'].text()} s, mflux",
        f"  {starts['mflux'].text()} s, mflux's command line {starts['command line'].text()} s.",
        f"* The command line pays that for each picture, {times.text(1)} times what the resident",
        "  engine takes.",
        f"* Three previews make a picture {overhead.text(3)} times as long.",
        f"* Memory over {len(found.memory)} pictures: {found.memory[0]:.0f} MiB after the first,",
        f"  {found.memory[-1]:.0f} after the last; {grown:+.1f} MiB from the second fifth to the last.",
        f"* Engine and mflux drew {'the same' if found.same_bytes else 'NOT the same'} bytes.",
        "",
        "| target | at most | measured | |",
        "|---|---|---|---|",
    ]
    again_as_first = Spread.of(
        mine / bare for mine, bare in zip(found.again["engine"], found.new["mflux"], strict=True)
    )
    targets = [
        Target("a new prompt, of mflux in the same process", AS_FAST, ratio(found.new)),
        Target("a step, of mflux's", AS_FAST, ratio(found.step)),
        Target("the same prompt again, of mflux's new one", 1.0, again_as_first),
        Target(
            "resident, of the command line",
            1.0,
            Spread(*(1 / v for v in (times.middle, times.high, times.low))),
        ),
        Target("MiB grown over the pictures", FLAT_MIB, Spread.of([grown])),
    ]
    lines += [target.row() for target in targets]
    met = all(target.figure and target.figure.middle <= target.limit for target in targets)
    return lines, met and found.same_bytes


def machine() -> str:
    from importlib.metadata import version

    import mlx.core as mx  # noqa: TID251

    device = "CPU" if mx.default_device().type == mx.cpu else "GPU"
    return f"{os.cpu_count()} cores, MLX {version('mlx')} on the {device}, mflux {version('mflux')}"


def write(lines: list[str], found: Results) -> None:
    text = DOCS.read_text(encoding="utf-8")
    told = "\n".join(
        ["<!-- bench -->", *lines, "", f"![times and memory]({PLOT.name})", "<!-- /bench -->"]
    )
    text = re.sub(r"<!-- bench -->.*?<!-- /bench -->", lambda _: told, text, flags=re.S)
    DOCS.write_text(text, encoding="utf-8")
    plot(found)


def plot(found: Results) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    groups = {"new prompt": found.new, "same again": found.again, "four": found.four}
    for offset, name, color in ((-0.2, "engine", "#2a6"), (0.2, "mflux", "#888")):
        middles = [statistics.median(group[name]) for group in groups.values()]
        times.bar([at + offset for at in range(len(groups))], middles, 0.38, label=name, color=color)
    times.set_xticks(range(len(groups)), list(groups))
    times.set_ylabel("seconds")
    times.legend()
    memory.plot(range(1, len(found.memory) + 1), found.memory, color="#2a6")
    memory.set_ylim(0, max(found.memory) * 1.2)
    memory.set_xlabel("pictures")
    memory.set_ylabel("MiB held")
    figure.savefig(PLOT, metadata={"Date": None})
    pyplot.close(figure)
