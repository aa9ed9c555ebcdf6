"""The image engine against mflux by itself, at full size on a GPU: seconds, steps, peak memory.

    python -m bench.gpu_image [--families flux1-schnell flux2-klein-4b] [--out results.json]
    python -m bench.gpu_image --tiny          # the same on small models, on a CPU, to try it

Needs mlx, mflux and pillow and nothing from the network: the checkpoints have a family's true shapes
and random weights, 4 bits, made on the spot. Time depends on neither what the weights are nor what the
picture is. For each family there are three processes:

* the engine alone and mflux alone: load, first picture, peak memory of both;
* both in one process, a picture of each in turn, each with its own limit of MLX's cache: seconds per
  picture and per step, their ratio in each turn, and whether both drew the same bytes.

Prints JSON. Prompts are new in each turn, so that no cache of prompts makes a difference.
"""

from __future__ import annotations

import argparse
import json
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

from contracts.settings.models import ImageSettings
from workers.backend import blas

FAMILIES = ("flux1-schnell", "flux2-klein-4b")
GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--size", type=int, help="pixels of a side (default 1024, tiny: 64)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="where checkpoints go (default: a temporary one)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--phase", choices=("engine", "mflux", "both"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.size = asked.size or (64 if asked.tiny else 1024)
    if asked.phase:
        (family,) = asked.families
        print(json.dumps(_phase(asked, family, asked.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        results = {
            family: _family(asked, family, asked.folder or Path(scratch)) for family in asked.families
        }
    text = json.dumps({"device": _device(), "results": results}, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


def _family(asked: argparse.Namespace, family: str, scratch: Path) -> dict[str, Any]:
    folder = scratch / family
    began = time.perf_counter()
    bits = None if asked.tiny else asked.bits
    options = ["--tiny"] if asked.tiny else ["--bits", str(bits)]
    _child(["-m", "testkit.random_models", family, str(folder), *options])
    told: dict[str, Any] = {
        "size": asked.size,
        "steps": asked.steps,
        "bits": bits,
        "checkpoint_gb": round(sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e9, 3),
        "checkpoint_written_s": round(time.perf_counter() - began, 1),
    }
    for phase in ("engine", "mflux", "both"):
        command = [
            "-m",
            "bench.gpu_image",
            "--phase",
            phase,
            "--families",
            family,
            "--folder",
            str(folder),
        ]
        command += ["--size", str(asked.size), "--steps", str(asked.steps), "--turns", str(asked.turns)]
        told[phase] = json.loads(_child(command + (["--tiny"] if asked.tiny else [])).splitlines()[-1])
        print(f"{family} {phase}: {told[phase]}", file=sys.stderr, flush=True)
    return told


def _child(arguments: list[str]) -> str:
    environment = {**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


# --- in a process of its own -------------------------------------------------------------------------


class Contender:
    """Something that draws: ``draw`` gives the seconds, the seconds of its steps, and the bytes."""

    def __init__(self, draw: Callable[[str, int], tuple[list[float], bytes]], cache_limit: int) -> None:
        self._draw = draw
        self._cache_limit = cache_limit

    def draw(self, prompt: str, seed: int) -> tuple[float, list[float], bytes]:
        import mlx.core as mx  # noqa: TID251

        mx.clear_cache()
        before = mx.set_cache_limit(self._cache_limit)
        began = time.perf_counter()
        ends, pixels = self._draw(prompt, seed)
        seconds = time.perf_counter() - began
        mx.set_cache_limit(before)
        steps = [end - start for start, end in pairwise(ends)]
        return seconds, steps, pixels


def _phase(asked: argparse.Namespace, family: str, folder: Path) -> dict[str, Any]:
    blas.enable()
    import mlx.core as mx  # noqa: TID251

    unbounded = mx.set_cache_limit(0)
    mx.set_cache_limit(unbounded)
    makers = {"engine": _engine, "mflux": _mflux}
    if asked.phase == "both":
        pair = {name: make(asked, family, folder, unbounded) for name, make in makers.items()}
        return _in_turn(pair, asked.turns)
    began = time.perf_counter()
    contender = makers[asked.phase](asked, family, folder, unbounded)
    loaded = time.perf_counter() - began
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    first, _, _ = contender.draw("a red cat on the left", 1)
    again, steps, _ = contender.draw("a red cat on the left", 2)
    new, _, _ = contender.draw("a blue dog on the right", 3)
    return {
        "load_s": round(loaded, 2),
        "first_picture_s": round(first, 3),
        "same_prompt_again_s": round(again, 3),
        "new_prompt_s": round(new, 3),
        "step_s": round(statistics.median(steps), 4),
        "held_gib": round(held / GIB, 2),
        "peak_gib": round(mx.get_peak_memory() / GIB, 2),
    }


def _in_turn(pair: dict[str, Contender], turns: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    steps: dict[str, list[float]] = {name: [] for name in pair}
    equal = True
    for contender in pair.values():
        contender.draw("warm up", 0)
    for turn in range(turns):
        drawn = {}
        names = list(pair) if turn % 2 == 0 else list(reversed(pair))
        for name in names:
            took, of_steps, drawn[name] = pair[name].draw(f"a red cat in picture {turn}", turn)
            seconds[name].append(took)
            steps[name] += of_steps
        equal = equal and len(set(drawn.values())) == 1
    ratios = [e / m for e, m in zip(seconds["engine"], seconds["mflux"], strict=True)]
    told = {
        name: {
            "picture_s": round(statistics.median(seconds[name]), 3),
            "picture_s_all": [round(s, 3) for s in seconds[name]],
            "step_s": round(statistics.median(steps[name]), 4),
        }
        for name in pair
    }
    return {
        **told,
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "same_bytes": equal,
        "blank": len(set(drawn["engine"])) == 1,  # all NaN: equal bytes would say nothing
    }


def _engine(asked: argparse.Namespace, family: str, folder: Path, unbounded: int) -> Contender:
    from workers.engine import ImageEvent, ImageFinished, ImageJob, StepFinished
    from workers.image.engine import MIB, MfluxEngine

    settings = ImageSettings.model_validate(
        {"kind": "image", "family": family, "path": str(folder), "port": 1, "memory_gb": 1.0}
    )
    engine = MfluxEngine("bench", settings)
    engine.load(lambda phase, detail, download=None: None)

    def draw(prompt: str, seed: int) -> tuple[list[float], bytes]:
        ends: list[float] = []
        pixels = b""

        def emit(event: ImageEvent | None) -> None:
            nonlocal pixels
            if isinstance(event, StepFinished):
                ends.append(time.perf_counter())
            elif isinstance(event, ImageFinished):
                pixels = event.rgb

        guidance = settings.default_guidance
        job = ImageJob(prompt, asked.size, asked.size, asked.steps, asked.steps, guidance, seed)
        engine.run(job, emit)
        return ends, pixels

    return Contender(draw, settings.cache_limit_mb * MIB)


def _mflux(asked: argparse.Namespace, family: str, folder: Path, unbounded: int) -> Contender:
    import mlx.core as mx  # noqa: TID251

    model, guidance = (_bare_tiny if asked.tiny else _bare)(family, folder)
    ends: list[float] = []

    class Clock:
        def call_in_loop(self, *, latents: Any, **_: Any) -> None:
            mx.eval(latents)
            ends.append(time.perf_counter())

    model.callbacks.register(Clock())

    def draw(prompt: str, seed: int) -> tuple[list[float], bytes]:
        ends.clear()
        drawn = model.generate_image(
            seed=seed,
            prompt=prompt,
            num_inference_steps=asked.steps,
            width=asked.size,
            height=asked.size,
            guidance=guidance,
        )
        return list(ends), drawn.image.tobytes()

    return Contender(draw, unbounded)


def _bare(family: str, folder: Path) -> tuple[Any, float]:
    """mflux's own class and constructor."""
    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
    from mflux.models.flux.variants.txt2img.flux import Flux1  # noqa: TID251
    from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein  # noqa: TID251
    from mflux.models.z_image.variants.z_image import ZImage  # noqa: TID251

    made: dict[str, tuple[Any, Any, float]] = {
        "flux1-schnell": (Flux1, ModelConfig.schnell(), 0.0),
        "flux1-dev": (Flux1, ModelConfig.dev(), 3.5),
        "flux2-klein-4b": (Flux2Klein, ModelConfig.flux2_klein_4b(), 1.0),
        "flux2-klein-9b": (Flux2Klein, ModelConfig.flux2_klein_9b(), 1.0),
        "z-image-turbo": (ZImage, ModelConfig.z_image_turbo(), 0.0),
    }
    kind, config, guidance = made[family]
    return kind(model_path=str(folder), model_config=config), guidance


def _bare_tiny(family: str, folder: Path) -> tuple[Any, float]:
    """mflux can't load a model as small as that; its own class draws with what the engine loads."""
    from workers.image import families

    settings = ImageSettings.model_validate(
        {"kind": "image", "family": family, "path": str(folder), "port": 1, "memory_gb": 1.0}
    )
    model = families.load(folder, settings).model
    model.prompt_cache = {}
    if type(model).__name__.startswith("_"):
        model.__class__ = type(model).__mro__[-1 - _depth(type(model))]
    return model, settings.default_guidance


def _depth(kind: type) -> int:
    """Where mflux's own class stands in the line of *kind*, counted from the end."""
    (place,) = (
        at
        for at, base in enumerate(reversed(kind.__mro__))
        if base.__name__ in ("Flux2Klein", "ZImage")
    )
    return place


def _device() -> str:
    import platform
    from importlib.metadata import version

    import mlx.core as mx  # noqa: TID251

    info = mx.device_info() if mx.default_device().type != mx.cpu else {}
    name = info.get("device_name", platform.processor() or platform.machine())
    return f"{name}, {mx.default_device()}, mlx {version('mlx')}, mflux {version('mflux')}"


if __name__ == "__main__":
    main()
