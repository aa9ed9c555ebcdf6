"""The image engine against plain mflux, at full size on a GPU: seconds, steps, peak memory.

    python -m bench.gpu_image [--families flux1-schnell flux2-klein-4b] [--out results.json]
    python -m bench.gpu_image --tiny          # the same on small models, on a CPU, to try it

Needs mlx, mflux and pillow, and nothing from the network: the checkpoints have a family's true shapes
and random 4-bit weights, which are made on the spot. The time depends neither on the weights nor on
the image. Each family takes three processes:

* the engine alone and mflux alone: load, first image, peak memory of each;
* both in one process, alternating, each with its own MLX cache limit: seconds per image and per step,
  their ratio in each turn, and whether both generated the same bytes.

Prints JSON. The prompt changes in each turn, so that no prompt cache makes a difference.
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
    parser.add_argument("--size", type=int, help="pixels per side (default: 1024, or 64 with --tiny)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints are written (default: temporary)"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--phase", choices=("engine", "mflux", "both"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = args.size or (64 if args.tiny else 1024)
    if args.phase:
        (family,) = args.families
        print(json.dumps(_phase(args, family, args.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        results = {
            family: _family(args, family, args.folder or Path(scratch)) for family in args.families
        }
    text = json.dumps({"device": _device(), "results": results}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def _family(args: argparse.Namespace, family: str, scratch: Path) -> dict[str, Any]:
    folder = scratch / family
    began = time.perf_counter()
    bits = None if args.tiny else args.bits
    options = ["--tiny"] if args.tiny else ["--bits", str(bits)]
    _child(["-m", "testkit.random_models", family, str(folder), *options])
    report: dict[str, Any] = {
        "size": args.size,
        "steps": args.steps,
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
        command += ["--size", str(args.size), "--steps", str(args.steps), "--turns", str(args.turns)]
        report[phase] = json.loads(_child(command + (["--tiny"] if args.tiny else [])).splitlines()[-1])
        print(f"{family} {phase}: {report[phase]}", file=sys.stderr, flush=True)
    return report


def _child(arguments: list[str]) -> str:
    environment = {**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


# --- inside one process ------------------------------------------------------------------------------


class Contender:
    """Generates images and times them: ``generate`` returns the seconds, those of each step, and the
    bytes."""

    def __init__(
        self, generate: Callable[[str, int], tuple[list[float], bytes]], cache_limit: int
    ) -> None:
        self._generate = generate
        self._cache_limit = cache_limit

    def generate(self, prompt: str, seed: int) -> tuple[float, list[float], bytes]:
        import mlx.core as mx  # noqa: TID251

        mx.clear_cache()
        before = mx.set_cache_limit(self._cache_limit)
        began = time.perf_counter()
        ends, pixels = self._generate(prompt, seed)
        seconds = time.perf_counter() - began
        mx.set_cache_limit(before)
        steps = [end - start for start, end in pairwise(ends)]
        return seconds, steps, pixels


def _phase(args: argparse.Namespace, family: str, folder: Path) -> dict[str, Any]:
    blas.enable()
    import mlx.core as mx  # noqa: TID251

    unbounded = mx.set_cache_limit(0)
    mx.set_cache_limit(unbounded)
    makers = {"engine": _engine, "mflux": _mflux}
    if args.phase == "both":
        pair = {name: make(args, family, folder, unbounded) for name, make in makers.items()}
        return _in_turn(pair, args.turns)
    began = time.perf_counter()
    contender = makers[args.phase](args, family, folder, unbounded)
    loaded = time.perf_counter() - began
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    first, _, _ = contender.generate("a red cat on the left", 1)
    again, steps, _ = contender.generate("a red cat on the left", 2)
    new, _, _ = contender.generate("a blue dog on the right", 3)
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
        contender.generate("warm up", 0)
    for turn in range(turns):
        pixels = {}
        names = list(pair) if turn % 2 == 0 else list(reversed(pair))
        for name in names:
            took, of_steps, pixels[name] = pair[name].generate(f"a red cat in image {turn}", turn)
            seconds[name].append(took)
            steps[name] += of_steps
        equal = equal and len(set(pixels.values())) == 1
    ratios = [e / m for e, m in zip(seconds["engine"], seconds["mflux"], strict=True)]
    report = {
        name: {
            "picture_s": round(statistics.median(seconds[name]), 3),
            "picture_s_all": [round(s, 3) for s in seconds[name]],
            "step_s": round(statistics.median(steps[name]), 4),
        }
        for name in pair
    }
    return {
        **report,
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "same_bytes": equal,
        "blank": len(set(pixels["engine"])) == 1,  # all NaN: then equal bytes prove nothing
    }


def _engine(args: argparse.Namespace, family: str, folder: Path, unbounded: int) -> Contender:
    from workers.engine import Drawn, ImageEvent, ImageJob, Stepped
    from workers.image.engine import MIB, MfluxEngine

    settings = ImageSettings.model_validate(
        {"kind": "image", "family": family, "path": str(folder), "port": 1, "memory_gb": 1.0}
    )
    engine = MfluxEngine("bench", settings)
    engine.load(lambda phase, detail, download=None: None)

    def generate(prompt: str, seed: int) -> tuple[list[float], bytes]:
        ends: list[float] = []
        pixels = b""

        def emit(event: ImageEvent | None) -> None:
            nonlocal pixels
            if isinstance(event, Stepped):
                ends.append(time.perf_counter())
            elif isinstance(event, Drawn):
                pixels = event.rgb

        guidance = settings.default_guidance
        job = ImageJob(prompt, args.size, args.size, args.steps, args.steps, guidance, seed)
        engine.run(job, emit)
        return ends, pixels

    return Contender(generate, settings.cache_limit_mb * MIB)


def _mflux(args: argparse.Namespace, family: str, folder: Path, unbounded: int) -> Contender:
    import mlx.core as mx  # noqa: TID251

    model, guidance = (_bare_tiny if args.tiny else _bare)(family, folder)
    ends: list[float] = []

    class Clock:
        def call_in_loop(self, *, latents: Any, **_: Any) -> None:
            mx.eval(latents)
            ends.append(time.perf_counter())

    model.callbacks.register(Clock())

    def generate(prompt: str, seed: int) -> tuple[list[float], bytes]:
        ends.clear()
        result = model.generate_image(
            seed=seed,
            prompt=prompt,
            num_inference_steps=args.steps,
            width=args.size,
            height=args.size,
            guidance=guidance,
        )
        return list(ends), result.image.tobytes()

    return Contender(generate, unbounded)


def _bare(family: str, folder: Path) -> tuple[Any, float]:
    """The model as mflux's own class and constructor make it."""
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
    """mflux cannot load such a small model, so its own class runs the model that the engine loads."""
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
    """The position of mflux's own class in the MRO of *kind*, counted from the end."""
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
