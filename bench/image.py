"""``python -m bench.image [--rounds N] [--quick]``: the image engine compared with mflux.

mflux runs in the same process as the engine and as its own command line, from the same checkpoint;
all alternate in one run. Measured: seconds per image and per step with a new prompt each, the same
prompt again, three previews or none, four images in one request, the first image after process start,
and memory over many images. The bytes must equal mflux's, or the run ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any

from bench.benchmark import Plan, report_progress, run
from bench.image_peers import CHECKPOINT, CLI, ENGINE, MFLUX, Pair, started
from bench.results import Better, Comparison, Figure, Found, Ratio
from contracts.settings.models import ImageSettings

AS_FAST = 1.02  # of mflux in the same process
FLAT_MIB = 8.0  # growth beyond this is a leak
IMAGES = 30  # generated to measure memory growth


@dataclass
class Measured:
    """Seconds of the engine and of mflux, one value per round; and MiB after each image."""

    new: dict[str, list[float]] = field(default_factory=dict)
    step: dict[str, list[float]] = field(default_factory=dict)
    again: dict[str, list[float]] = field(default_factory=dict)
    four: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, list[float]] = field(default_factory=dict)
    previews: list[float] = field(default_factory=list)  # with three previews / without
    memory: list[float] = field(default_factory=list)


def measure(plan: Plan) -> Found:
    settings = ImageSettings(
        kind="image", family="flux1-schnell", path=str(CHECKPOINT), port=1, memory_gb=1.0
    )
    measured = Measured()
    pair = Pair(settings)
    for number in range(-1, plan.rounds):
        report_progress(number, plan.rounds, "image")
        one_round(pair, number, measured)
    for number in range(4 if plan.quick else IMAGES):
        pair.engine(f"a green star on a white background {number}", number)
        measured.memory.append(pair.held())
    # A warm-up round puts all files into the page cache; a quick run has no time for it.
    for number in range(0 if plan.quick else -1, plan.rounds):
        report_progress(number, plan.rounds, "image, the first image of a process")
        for name, seconds in started(settings):
            if number >= 0:
                keep(measured.start, name, seconds)
    return found(measured)


def one_round(pair: Pair, number: int, measured: Measured) -> None:
    """Measure one round. Round -1 is the warm-up: its values are not kept."""
    ways: dict[str, Callable[..., Any]] = {ENGINE: pair.engine, MFLUX: pair.mflux}
    prompt = f"a red circle on a blue background {number}"
    generated = {}
    for name in ways if number % 2 else reversed(ways):
        new = ways[name](prompt, 1000 + number)
        again = ways[name](prompt, 2000 + number)
        four = ways[name](prompt, 3000 + number, n=4)
        generated[name] = [*new[2], *again[2], *four[2]]
        if number >= 0:
            keep(measured.new, name, new[0])
            keep(measured.step, name, median(new[1]))
            keep(measured.again, name, again[0])
            keep(measured.four, name, four[0])
    same_bytes(generated)
    with_previews, plain = pair.engine(prompt, previews=3)[0], pair.engine(prompt)[0]
    if number >= 0:
        measured.previews.append(with_previews / plain)


def same_bytes(generated: dict[str, list[bytes]]) -> None:
    """End the run if engine and mflux generated different bytes: their times are not comparable."""
    if generated[ENGINE] != generated[MFLUX]:
        raise SystemExit("engine and mflux did not generate the same bytes")


def keep(into: dict[str, list[float]], name: str, value: float) -> None:
    into.setdefault(name, []).append(value)


# --- results ----------------------------------------------------------------------------------------


def found(measured: Measured) -> Found:
    resident_comparison = Comparison(
        "Seconds, both loaded in one process",
        (
            compare("an image, new prompt", MFLUX, measured.new, AS_FAST),
            compare("a step", MFLUX, measured.step, AS_FAST),
            compare("a repeated prompt", MFLUX, measured.again),
            compare("a repeated prompt, mflux with a new one", MFLUX, again_of_new(measured), 1.0),
            compare("four images of one request", MFLUX, measured.four),
        ),
    )
    start_comparison = Comparison(
        "Seconds to the first image of a new process",
        (
            compare("both newly started", MFLUX, measured.start),
            compare("both newly started", CLI, measured.start),
            compare("ours loaded already", CLI, resident(measured), 1.0),
        ),
    )
    less = Better.LESS
    return Found(
        (f"mflux {version('mflux')}",),
        (resident_comparison, start_comparison),
        (
            Figure("time with three previews / without", "times", less, tuple(measured.previews)),
            Figure("memory after the first image", "MiB", less, (measured.memory[0],)),
            Figure(
                f"memory growth after {len(measured.memory)} images",
                "MiB",
                less,
                (growth(measured.memory),),
                FLAT_MIB,
            ),
        ),
    )


def compare(
    case: str, peer: str, seconds: Mapping[str, Sequence[float]], target: float | None = None
) -> Ratio:
    mine, theirs = (tuple(seconds[name]) for name in (ENGINE, peer))
    return Ratio(case, peer, "s", Better.LESS, mine, theirs, target)


def again_of_new(measured: Measured) -> dict[str, list[float]]:
    return {ENGINE: measured.again[ENGINE], MFLUX: measured.new[MFLUX]}


def resident(measured: Measured) -> dict[str, list[float]]:
    """A loaded engine compared with the command line, which loads the model for each image."""
    return {ENGINE: measured.again[ENGINE], CLI: measured.start[CLI]}


def growth(memory: Sequence[float]) -> float:
    """MiB between the medians of the second and the last fifth of the images."""
    part = max(1, len(memory) // 5)
    return median(memory[-part:]) - median(memory[part : 2 * part])


if __name__ == "__main__":
    sys.exit(run("image", measure, about=__doc__.splitlines()[0], rounds=(6, 1)))
