"""The contenders of ``bench.image``: our engine, mflux in the same process, and mflux's command line.

mflux cannot load the demo's small FLUX, so its classes and its command line get the model from
``workers.image.families``, which sets the dimensions. Everything else is mflux's own code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.stack import ROOT
from contracts.settings.models import ImageSettings
from workers.engine import Drawn, ImageEvent, ImageJob, Stepped

CHECKPOINT = ROOT / "demo" / "models" / "image-gen"
MIB = 1 << 20
SIDE, STEPS = 128, 4  # pixels; per image
ENGINE, MFLUX, CLI = "engine", "mflux's library", "mflux's command line"

# The command line itself; workers.image.families loads its model.
CLI_CODE = """
import sys
from pathlib import Path
from workers.backend import blas
blas.enable()
from contracts.settings.models import ImageSettings
from mflux.models.flux.cli import flux_generate
from mflux.models.flux.variants.txt2img.flux import Flux1
from workers.image import families
settings = ImageSettings.model_validate_json(sys.argv.pop(1))
def load(self, **_):
    adapter = families.load(Path(settings.path), settings)
    self.__dict__.update(adapter.model.__dict__)
    dict.update(self, adapter.model)
    self.prompt_cache = {}
Flux1.__init__ = load
flux_generate.main()
"""
ENGINE_CODE = """
import sys
from workers.engine import ImageJob
from workers.image.engine import MfluxEngine
from contracts.settings.models import ImageSettings
settings = ImageSettings.model_validate_json(sys.argv[1])
prompt, side, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
engine = MfluxEngine("bench", settings)
engine.load(lambda phase, detail, download=None: None)
engine.run(ImageJob(prompt, side, side, steps, steps, 0.0, 7), lambda event: None)
"""
MFLUX_CODE = """
import sys
from pathlib import Path
from workers.backend import blas
blas.enable()
from contracts.settings.models import ImageSettings
from workers.image import families
settings = ImageSettings.model_validate_json(sys.argv[1])
side, steps = int(sys.argv[3]), int(sys.argv[4])
model = families.load(Path(settings.path), settings).model
model.prompt_cache = {}
model.generate_image(seed=7, prompt=sys.argv[2], num_inference_steps=steps, width=side, height=side)
"""


class Pair:
    """The engine and mflux's model in this process, each with its own weights."""

    def __init__(self, settings: ImageSettings) -> None:
        from workers.image import families
        from workers.image.engine import MfluxEngine

        self._engine = MfluxEngine("bench", settings)
        self._engine.load(lambda phase, detail, download=None: None)
        self._model = families.load(Path(settings.path), settings).model
        self._model.prompt_cache = {}
        self._ends: list[float] = []
        self._model.callbacks.register(self)

    def call_in_loop(self, *, latents: Any, **_: Any) -> None:
        """Called by mflux after each step."""
        import mlx.core as mx  # noqa: TID251

        mx.eval(latents)
        self._ends.append(time.perf_counter())

    def engine(
        self, prompt: str, seed: int = 7, **fields: Any
    ) -> tuple[float, list[float], list[bytes]]:
        ends: list[float] = []
        images: list[bytes] = []

        def emit(event: ImageEvent | None) -> None:
            if isinstance(event, Stepped):
                ends.append(time.perf_counter())
            elif isinstance(event, Drawn):
                images.append(event.rgb)

        began = time.perf_counter()
        self._engine.run(ImageJob(prompt, SIDE, SIDE, STEPS, STEPS, 0.0, seed, **fields), emit)
        return time.perf_counter() - began, gaps(ends), images

    def mflux(self, prompt: str, seed: int = 7, n: int = 1) -> tuple[float, list[float], list[bytes]]:
        self._ends.clear()
        images = []
        began = time.perf_counter()
        for index in range(n):
            result = self._model.generate_image(
                seed=seed + index,
                prompt=prompt,
                num_inference_steps=STEPS,
                width=SIDE,
                height=SIDE,
            )
            images.append(result.image.tobytes())
        return time.perf_counter() - began, gaps(self._ends), images

    def held(self) -> float:
        """Memory of this process in MiB, as the system counts it."""
        import psutil

        rss: int = psutil.Process().memory_info().rss
        return rss / MIB


def gaps(ends: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(ends)]


def started(settings: ImageSettings) -> list[tuple[str, float]]:
    """Seconds from process start to the first image, once for each contender."""
    spec, prompt = settings.model_dump_json(), "a red circle on a blue background"
    side, steps = str(SIDE), str(STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        cli = ["--model", "schnell", "--prompt", prompt, "--width", side, "--height", side]
        cli += ["--steps", steps, "--seed", "7", "--output", str(Path(scratch) / "image.png")]
        commands = {
            ENGINE: [ENGINE_CODE, spec, prompt, side, steps],
            MFLUX: [MFLUX_CODE, spec, prompt, side, steps],
            CLI: [CLI_CODE, spec, *cli],
        }
        seconds = []
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
            seconds.append((name, time.perf_counter() - began))
        if not (Path(scratch) / "image.png").exists():
            raise SystemExit("mflux's command line wrote no image")
    return seconds
