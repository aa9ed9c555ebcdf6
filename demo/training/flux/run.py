"""The parts that all stages of a training run share: folder, device, helper processes, scale."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from demo.training.flux.dimensions import Dimensions

MAIN_SIZE = 128  # pixels; the side of most training and grading images
SIZES = (MAIN_SIZE, 64, 192, 256)


@dataclass
class Run:
    folder: Path  # of the files between the stages
    device: str = "cuda"
    scale: float = 1.0  # of batches and data; below 1 for a smoke run
    max_steps: int = 10**9
    graded: int = 100  # scenes in each grading, both held out and others
    pool: Pool | None = None  # must start before the device
    sizes: Dimensions = field(default_factory=Dimensions)
    _begun: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def scaled(self, count: int) -> int:
        return max(2, int(count * self.scale))

    def map(self, function: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
        return self.pool.map(function, jobs) if self.pool else list(map(function, jobs))

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:6.1f} s] {text}", flush=True)


def learning_rate(peak: float, share: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a half cosine down to a hundredth; ``share`` of the time has passed."""
    if share < warmup:
        return peak * share / warmup
    turn = math.pi * (share - warmup) / (1 - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(turn)))
