"""What every stage of a training run shares: its folder, device, helper processes and size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from demo.training.flux.dimensions import Dimensions

MAIN_SIZE = 128  # pixels; the side that most pictures are trained and graded at
SIZES = (MAIN_SIZE, 64, 192, 256)


@dataclass
class Run:
    folder: Path  # of the files that pass from stage to stage
    device: str = "cuda"
    scale: float = 1.0  # of batches and data; less than 1 to rehearse
    max_steps: int = 10**9
    graded: int = 100  # scenes in each grading, held out and others
    pool: Pool | None = None  # must be started before the device is
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
    """Up over the warm-up, down along a half cosine to a hundredth; ``share`` of the time is spent."""
    if share < warmup:
        return peak * share / warmup
    turn = math.pi * (share - warmup) / (1 - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(turn)))
