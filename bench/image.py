"""The image engine against mflux, in one process and as its command line, on the same checkpoint.

    python -m bench.image [--quick] [--write] [--rounds 10] [--pictures 50] [--size 128] [--steps 4]

All contenders run in the same run, in turn; a ratio is taken within its turn. Measured are: seconds of
a picture and of its steps with a new prompt each, the same prompt again, three previews or none, four
pictures of one request, the first picture after the start of a process, and memory over ``--pictures``.
``--write`` puts the table into docs/images.md and the plot beside it. The exit status is 1 when a
target is missed.

mflux can't load the demo's small FLUX by itself: here its classes and its command line get the model
from ``workers.families``, which sets the dimensions. What they do with it is their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.image_report import Results, report, write
from contracts.settings_models import ImageSettings
from workers.engine import Drawn, ImageEvent, ImageJob, Stepped

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "demo" / "models" / "image-gen"
MIB = 1 << 20

# The command line itself, its model loaded by workers.families.
CLI = """
import sys
from pathlib import Path
from workers import blas
blas.enable()
from contracts.settings_models import ImageSettings
from mflux.models.flux.cli import flux_generate
from mflux.models.flux.variants.txt2img.flux import Flux1
from workers import families
settings = ImageSettings.model_validate_json(sys.argv.pop(1))
def load(self, **_):
    adapter = families.load(Path(settings.path), settings)
    self.__dict__.update(adapter.model.__dict__)
    dict.update(self, adapter.model)
    self.prompt_cache = {}
Flux1.__init__ = load
flux_generate.main()
"""
ENGINE = """
import sys
from workers.engine import Drawn, ImageJob
from workers.image import MfluxEngine
from contracts.settings_models import ImageSettings
settings = ImageSettings.model_validate_json(sys.argv[1])
prompt, side, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
engine = MfluxEngine("bench", settings)
engine.load(lambda phase, detail, download=None: None)
engine.run(ImageJob(prompt, side, side, steps, steps, 0.0, 7), lambda event: None)
"""
MFLUX = """
import sys
from pathlib import Path
from workers import blas
blas.enable()
from contracts.settings_models import ImageSettings
from workers import families
settings = ImageSettings.model_validate_json(sys.argv[1])
side, steps = int(sys.argv[3]), int(sys.argv[4])
model = families.load(Path(settings.path), settings).model
model.prompt_cache = {}
model.generate_image(seed=7, prompt=sys.argv[2], num_inference_steps=steps, width=side, height=side)
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-image", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few turns: does it work?")
    parser.add_argument("--write", action="store_true", help="into docs/images.md")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (2 if asked.quick else 12)
    asked.pictures = asked.pictures or (6 if asked.quick else 50)
    settings = ImageSettings(
        kind="image", family="flux1-schnell", path=str(CHECKPOINT), port=1, memory_gb=1.0
    )
    results = measured(settings, asked)
    what = f"{asked.size}x{asked.size}, {asked.steps} steps, {asked.rounds} rounds"
    lines, met = report(results, what)
    print("\n".join(lines))
    if asked.write:
        write(lines, results)
    return 0 if met else 1


# --- measuring -------------------------------------------------------------------------------------


class Pair:
    """The engine and mflux's model, loaded in this process, each with weights of its own."""

    def __init__(self, settings: ImageSettings, side: int, steps: int) -> None:
        from workers import families
        from workers.image import MfluxEngine

        self._side, self._steps = side, steps
        self._engine = MfluxEngine("bench", settings)
        self._engine.load(lambda phase, detail, download=None: None)
        self._model = families.load(Path(settings.path), settings).model
        self._model.prompt_cache = {}
        self._ends: list[float] = []
        self._model.callbacks.register(self)

    def call_in_loop(self, *, latents: Any, **_: Any) -> None:
        """mflux calls."""
        import mlx.core as mx  # noqa: TID251

        mx.eval(latents)
        self._ends.append(time.perf_counter())

    def engine(
        self, prompt: str, seed: int = 7, **fields: Any
    ) -> tuple[float, list[float], list[bytes]]:
        ends: list[float] = []
        pictures: list[bytes] = []

        def emit(event: ImageEvent | None) -> None:
            if isinstance(event, Stepped):
                ends.append(time.perf_counter())
            elif isinstance(event, Drawn):
                pictures.append(event.rgb)

        side, steps = self._side, self._steps
        began = time.perf_counter()
        self._engine.run(ImageJob(prompt, side, side, steps, steps, 0.0, seed, **fields), emit)
        return time.perf_counter() - began, gaps(ends), pictures

    def mflux(self, prompt: str, seed: int = 7, n: int = 1) -> tuple[float, list[float], list[bytes]]:
        self._ends.clear()
        pictures = []
        began = time.perf_counter()
        for index in range(n):
            drawn = self._model.generate_image(
                seed=seed + index,
                prompt=prompt,
                num_inference_steps=self._steps,
                width=self._side,
                height=self._side,
            )
            pictures.append(drawn.image.tobytes())
        return time.perf_counter() - began, gaps(self._ends), pictures

    def held(self) -> float:
        """MiB of this process, as the system counts them."""
        import psutil

        rss: int = psutil.Process().memory_info().rss
        return rss / MIB


def gaps(ends: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(ends)]


def measured(settings: ImageSettings, asked: argparse.Namespace) -> Results:
    found = Results()
    pair = Pair(settings, asked.size, asked.steps)
    ways: dict[str, Callable[..., Any]] = {"engine": pair.engine, "mflux": pair.mflux}
    for turn in range(-1, asked.rounds):  # one goes unmeasured
        names = list(ways) if turn % 2 else list(reversed(ways))
        told: dict[str, Any] = {}
        for name in names:
            prompt = f"a red circle on a blue background {turn}"
            new = told[name] = ways[name](prompt, 1000 + turn)
            again = ways[name](prompt, 2000 + turn)
            four = ways[name](prompt, 3000 + turn, n=4)
            if turn >= 0:
                keep(found.new, name, new[0])
                keep(found.step, name, statistics.median(new[1]))
                keep(found.again, name, again[0])
                keep(found.four, name, four[0])
        found.same_bytes = found.same_bytes and told["engine"][2] == told["mflux"][2]
        shown, plain = pair.engine(prompt, previews=3)[0], pair.engine(prompt)[0]
        if turn >= 0:
            found.previews.append((shown, plain))
    for number in range(asked.pictures):
        pair.engine(f"a green star on a white background {number}", number)
        found.memory.append(pair.held())
    for turn in range(-1, max(2, asked.rounds // 3)):
        for name, seconds in started(settings, asked):
            if turn >= 0:
                keep(found.start, name, seconds)
    return found


def keep(into: dict[str, list[float]], name: str, value: float) -> None:
    into.setdefault(name, []).append(value)


def started(settings: ImageSettings, asked: argparse.Namespace) -> list[tuple[str, float]]:
    """Seconds from the start of a process to its first picture, each way once."""
    spec, prompt = settings.model_dump_json(), "a red circle on a blue background"
    side, steps = str(asked.size), str(asked.steps)
    with tempfile.TemporaryDirectory() as scratch:
        cli = ["--model", "schnell", "--prompt", prompt, "--width", side, "--height", side]
        cli += ["--steps", steps, "--seed", "7", "--output", str(Path(scratch) / "drawn.png")]
        commands = {
            "engine": [ENGINE, spec, prompt, side, steps],
            "mflux": [MFLUX, spec, prompt, side, steps],
            "command line": [CLI, spec, *cli],
        }
        told = []
        for name, (code, *arguments) in commands.items():
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                cwd=ROOT,
                env={**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            told.append((name, time.perf_counter() - began))
        if not (Path(scratch) / "drawn.png").exists():
            raise SystemExit("mflux's command line drew nothing")
    return told


if __name__ == "__main__":
    sys.exit(main())
