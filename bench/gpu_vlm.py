"""``python -m bench.gpu_vlm [--small] [--work DIR]``: the VLM engine at full size, on a GPU.

Checkpoints with random weights are made on the spot (``bench.full_size``) and loaded by the engine
like any other, each in its own process. The engine and bare ``stream_generate`` alternate on the same
weights, on one thread. Measured: tokens per second at 1, 8 and 16 concurrent requests, time to the
first token of a prompt with one 1024 x 1024 image, cold and repeated, and MLX's peak memory. Prints
one JSON object; ``--small`` tries it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx  # noqa: TID251 - measures the engine's memory
import numpy as np
from PIL import Image

from bench import full_size
from contracts.settings.base import GIB
from contracts.settings.models import VlmSettings
from workers.engine import Answered, ChatJob, Delta, Sampling, Turn
from workers.vlm.engine import VlmEngine

SIDE = 1024  # pixels
TOKENS = 128  # per completion
ROUNDS = 5
COUNTS = (1, 8, 16)


@dataclass
class Recorder:
    """A sink that records the time of the first text and the number of tokens."""

    began: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    tokens: int = 0
    cached: int = 0
    ended: bool = False
    error: BaseException | None = None
    cancelled: bool = False

    def begin(self) -> None: ...

    def put(self, event: Any) -> None:
        if isinstance(event, Delta) and not self.first_s:
            self.first_s = time.perf_counter() - self.began
        elif isinstance(event, Answered):
            self.tokens, self.cached = event.completion_tokens, event.cached_tokens

    def end(self, error: BaseException | None) -> None:
        self.ended, self.error = True, error


class Engine:
    """The engine with *checkpoint* loaded, run on this thread."""

    def __init__(self, checkpoint: Path) -> None:
        settings = VlmSettings(
            kind="vlm",
            path=str(checkpoint),
            port=1,
            memory_gb=1,
            max_concurrency=max(COUNTS),
            prefill_tokens=2048,  # as the bare library prefills
        )
        self.engine = VlmEngine("bench", settings)
        began = time.perf_counter()
        self.engine.load(lambda *progress: None)
        self.load_s = time.perf_counter() - began

    def run(self, jobs: list[ChatJob]) -> tuple[float, list[Recorder]]:
        """Seconds that all *jobs* take together, and the record of each."""
        began = time.perf_counter()
        records = [Recorder(began) for _ in jobs]
        for job, record in zip(jobs, records, strict=True):
            self.engine.admit(self.engine.read(job), record)
        while self.engine.busy:
            self.engine.step()
        seconds = time.perf_counter() - began
        if failed := [record.error for record in records if record.error]:
            raise failed[0]
        return seconds, records


class Bare:
    """``stream_generate`` on the weights of *engine*."""

    def __init__(self, engine: Engine) -> None:
        # The engine's own objects, so that 6 GB are not loaded twice.
        self._model, self._processor = engine.engine._model, engine.engine._processor

    def run(self, job: ChatJob) -> tuple[float, float, int]:
        """Seconds to the first text, total seconds, tokens."""
        from mlx_vlm import stream_generate  # noqa: TID251 - the peer that is measured
        from mlx_vlm.prompt_utils import apply_chat_template  # noqa: TID251

        began = time.perf_counter()
        text = "".join(part for part in job.turns[0].parts if isinstance(part, str))
        prompt = apply_chat_template(
            self._processor, self._model.config, text, num_images=len(job.images)
        )
        first, tokens = 0.0, 0
        for part in stream_generate(
            self._model,
            self._processor,
            prompt,
            image=job.images or None,
            max_tokens=job.max_tokens,
            temperature=0.0,
        ):
            tokens = part.generation_tokens
            first = first or time.perf_counter() - began
        return first, time.perf_counter() - began, tokens


class Questions:
    """Jobs with prompts and images that no cache has report."""

    def __init__(self, side: int) -> None:
        self._number = 0
        self._side = side

    def text(self, max_tokens: int) -> ChatJob:
        self._number += 1
        return self._job(
            (f"Question {self._number}: write a long story about numbers and shapes.",), max_tokens
        )

    def image(self) -> Image.Image:
        self._number += 1
        pixels = np.random.default_rng(self._number).integers(0, 256, (self._side, self._side, 3))
        return Image.fromarray(pixels.astype(np.uint8))

    def about(self, image: Image.Image, max_tokens: int) -> ChatJob:
        self._number += 1
        return self._job((image, f"What is this? ({self._number})"), max_tokens)

    def _job(self, parts: tuple[Any, ...], max_tokens: int) -> ChatJob:
        return ChatJob((Turn("user", parts),), Sampling(temperature=0), max_tokens)


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of *work*, and MLX's peak memory during it, in GiB."""
    mx.clear_cache()
    mx.reset_peak_memory()
    result = work()
    return result, round(mx.get_peak_memory() / GIB, 2)


def measure(checkpoint: Path, side: int, tokens: int, rounds: int) -> dict[str, Any]:
    engine, peak_load = peak_of(lambda: Engine(checkpoint))
    bare = Bare(engine)
    questions = Questions(side)
    report: dict[str, Any] = {
        "load_s": round(engine.load_s, 2),
        "weights_gib": round(mx.get_active_memory() / GIB, 2),
        "peak_load_gib": peak_load,
        "throughput": {},
    }
    rates: dict[str, list[float]] = {}
    for number in range(-1, rounds):  # the first round warms up
        for count in COUNTS:
            jobs = [questions.text(tokens) for _ in range(count)]
            seconds, records = engine.run(jobs)
            rate = sum(record.tokens for record in records) / seconds
            if number >= 0:
                rates.setdefault(f"engine {count}", []).append(rate)
        _, seconds, generated = bare.run(questions.text(tokens))
        if number >= 0:
            rates.setdefault("bare 1", []).append(generated / seconds)
    report["tokens_per_s"] = {name: spread(values) for name, values in rates.items()}
    for count in COUNTS:
        pairs = zip(rates[f"engine {count}"], rates["bare 1"], strict=True)
        report["throughput"][f"engine {count} / bare 1"] = spread([ours / own for ours, own in pairs])
    report["first_token_ms"] = first_tokens(engine, bare, questions, rounds)
    _, report["peak_bare_gib"] = peak_of(lambda: bare.run(questions.about(questions.image(), tokens)))
    _, report["peak_engine_1_gib"] = peak_of(
        lambda: engine.run([questions.about(questions.image(), tokens)])
    )
    _, report["peak_engine_8_gib"] = peak_of(
        lambda: engine.run([questions.about(questions.image(), tokens) for _ in range(8)])
    )
    schedule = engine.engine.schedule
    assert schedule is not None
    report["caches_gib"] = round((schedule.prefixes.nbytes + schedule.features.nbytes) / GIB, 2)
    engine.engine.close()
    return report


def first_tokens(engine: Engine, bare: Bare, questions: Questions, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first token of a prompt with an image: new, then with another question."""
    taken: dict[str, list[float]] = {}

    def note(case: str, seconds: float) -> None:
        taken.setdefault(case, []).append(1e3 * seconds)

    tokens = 0
    for number in range(-1, rounds):
        image = questions.image()
        for case in ("cold", "again"):
            job = questions.about(image, 8)
            tokens = engine.engine.read(job).prompt_tokens
            _, (record,) = engine.run([job])
            first, _, _ = bare.run(questions.about(image, 8))
            if number >= 0:
                note(f"engine {case}", record.first_s)
                note(f"bare {case}", first)
    return {"prompt_tokens": tokens, **{case: spread(values) for case, values in taken.items()}}


def spread(values: list[float]) -> list[float]:
    """Median, minimum, maximum."""
    return [round(value, 2) for value in (statistics.median(values), min(values), max(values))]


MODELS = {"Qwen2.5-VL-7B, 4 bit": full_size.qwen, "Moondream2, bf16": full_size.moondream}


def main() -> int:
    parse = argparse.ArgumentParser(prog="bench.gpu_vlm", description=__doc__.splitlines()[0])
    parse.add_argument("--small", action="store_true", help="small models, to see that it runs")
    parse.add_argument(
        "--work", type=Path, help="folder for the checkpoints (default: a temporary one)"
    )
    parse.add_argument("--one", choices=MODELS, help="measure this model in this process")
    args = parse.parse_args()
    if not args.small and mx.default_device().type == mx.cpu:
        print("no GPU: MLX's CUDA or Metal back end is needed (docs/dev/gpu.md)", file=sys.stderr)
        return 2
    if args.one:
        side, tokens, rounds = (128, 8, 1) if args.small else (SIDE, TOKENS, ROUNDS)
        with tempfile.TemporaryDirectory(dir=args.work) as name:
            folder = MODELS[args.one](Path(name) / "checkpoint", small=args.small)
            print(f"{args.one}: made", file=sys.stderr, flush=True)
            print(json.dumps(measure(folder, side, tokens, rounds)))
        return 0
    report: dict[str, Any] = {
        "mlx": version("mlx"),
        "device": str(mx.device_info().get("device_name", "cpu")),
    }
    failed = False
    for model in MODELS:
        # The engine returns MLX's streams when it closes, so a second model needs a second process.
        command = [sys.executable, "-m", "bench.gpu_vlm", *sys.argv[1:], "--one", model]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        failed |= bool(done.returncode)
        report[model] = json.loads(done.stdout) if done.returncode == 0 else "failed"
    print(json.dumps(report, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
