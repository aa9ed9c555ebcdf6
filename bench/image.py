"""``python -m bench.image [--rounds N] [--quick]``: the image engine beside mflux.

mflux draws in the same process as the engine and as its command line, from the same checkpoint; all
take turns in the same run. Measured are: seconds of a picture and of its steps with a new prompt each,
the same prompt again, three previews or none, four images of one request, the first picture after
the start of a process, and memory over many pictures. The bytes must be mflux's, or the run ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any

from bench.benchmark import Plan, run, turn
from bench.image_peers import CHECKPOINT, CLI, ENGINE, MFLUX, Pair, started
from bench.results import Better, Comparison, Figure, Found, Ratio
from contracts.settings.models import ImageSettings

AS_FAST = 1.02  # of mflux in the same process
FLAT_MIB = 8.0  # more than that is a leak
PICTURES = 30  # for what memory grows by


@dataclass
class Measured:
    """Seconds, a value a round, of the engine and of mflux; and mebibytes after each picture."""

    new: dict[str, list[float]] = field(default_factory=dict)
    step: dict[str, list[float]] = field(default_factory=dict)
    again: dict[str, list[float]] = field(default_factory=dict)
    four: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, list[float]] = field(default_factory=dict)
    previews: list[float] = field(default_factory=list)  # with three, of without
    memory: list[float] = field(default_factory=list)


def measure(plan: Plan) -> Found:
    settings = ImageSettings(
        kind="image", family="flux1-schnell", path=str(CHECKPOINT), port=1, memory_gb=1.0
    )
    measured = Measured()
    pair = Pair(settings)
    for number in range(-1, plan.rounds):
        turn(number, plan.rounds, "image")
        one_round(pair, number, measured)
    for number in range(4 if plan.quick else PICTURES):
        pair.engine(f"a green star on a white background {number}", number)
        measured.memory.append(pair.held())
    # One goes unmeasured, so that all files are in the page cache; a quick run has no time for that.
    for number in range(0 if plan.quick else -1, plan.rounds):
        turn(number, plan.rounds, "image, the first picture of a process")
        for name, seconds in started(settings):
            if number >= 0:
                keep(measured.start, name, seconds)
    return found(measured)


def one_round(pair: Pair, number: int, measured: Measured) -> None:
    """*number*: -1 is measured, and not kept."""
    ways: dict[str, Callable[..., Any]] = {ENGINE: pair.engine, MFLUX: pair.mflux}
    prompt = f"a red circle on a blue background {number}"
    drawn = {}
    for name in ways if number % 2 else reversed(ways):
        new = ways[name](prompt, 1000 + number)
        again = ways[name](prompt, 2000 + number)
        four = ways[name](prompt, 3000 + number, n=4)
        drawn[name] = [*new[2], *again[2], *four[2]]
        if number >= 0:
            keep(measured.new, name, new[0])
            keep(measured.step, name, median(new[1]))
            keep(measured.again, name, again[0])
            keep(measured.four, name, four[0])
    same_bytes(drawn)
    shown, plain = pair.engine(prompt, previews=3)[0], pair.engine(prompt)[0]
    if number >= 0:
        measured.previews.append(shown / plain)


def same_bytes(drawn: dict[str, list[bytes]]) -> None:
    """Engine and mflux drew the same, or their times can't be compared."""
    if drawn[ENGINE] != drawn[MFLUX]:
        raise SystemExit("engine and mflux did not draw the same bytes")


def keep(into: dict[str, list[float]], name: str, value: float) -> None:
    into.setdefault(name, []).append(value)


# --- what follows from it ---------------------------------------------------------------------------


def found(measured: Measured) -> Found:
    drawing = Comparison(
        "Seconds, both loaded in one process",
        (
            beside("an image, new prompt", MFLUX, measured.new, AS_FAST),
            beside("a step", MFLUX, measured.step, AS_FAST),
            beside("the same prompt again", MFLUX, measured.again),
            beside("the same prompt again, mflux a new one", MFLUX, again_of_new(measured), 1.0),
            beside("four images of one request", MFLUX, measured.four),
        ),
    )
    starting = Comparison(
        "Seconds to the first image of a new process",
        (
            beside("both newly started", MFLUX, measured.start),
            beside("both newly started", CLI, measured.start),
            beside("ours loaded already", CLI, resident(measured), 1.0),
        ),
    )
    less = Better.LESS
    return Found(
        (f"mflux {version('mflux')}",),
        (drawing, starting),
        (
            Figure("three previews make an image as long", "times", less, tuple(measured.previews)),
            Figure("held after the first image", "MiB", less, (measured.memory[0],)),
            Figure(
                f"more held after {len(measured.memory)} images",
                "MiB",
                less,
                (growth(measured.memory),),
                FLAT_MIB,
            ),
        ),
    )


def beside(
    case: str, peer: str, seconds: Mapping[str, Sequence[float]], target: float | None = None
) -> Ratio:
    mine, theirs = (tuple(seconds[name]) for name in (ENGINE, peer))
    return Ratio(case, peer, "s", Better.LESS, mine, theirs, target)


def again_of_new(measured: Measured) -> dict[str, list[float]]:
    return {ENGINE: measured.again[ENGINE], MFLUX: measured.new[MFLUX]}


def resident(measured: Measured) -> dict[str, list[float]]:
    """A loaded engine beside the command line, which loads for each picture."""
    return {ENGINE: measured.again[ENGINE], CLI: measured.start[CLI]}


def growth(memory: Sequence[float]) -> float:
    """MiB between the second fifth of the pictures and the last, medians of both."""
    part = max(1, len(memory) // 5)
    return median(memory[-part:]) - median(memory[part : 2 * part])


if __name__ == "__main__":
    sys.exit(run("image", measure, about=__doc__.splitlines()[0], rounds=(6, 1)))
