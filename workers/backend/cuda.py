"""What MLX's CUDA back end needs that Metal and the CPU do not. Imported by the VLM engine.

MLX 0.32.4 multiplies an input (B, 1, K) with quantized weights row by row there, so that a decode step
of B answers takes B times as long as one; the same rows as one matrix (B, K) take one pass from eight
rows on, and less time padded to eight than as two to seven passes (docs/dev/gpu.md has the figures).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine
import mlx.nn as nn  # noqa: TID251

_LEAST = 8  # rows from which on the back end takes one pass


class RowsLinear(nn.QuantizedLinear):  # type: ignore[misc]
    """A quantized layer that takes the one place of each of several rows, (B, 1, K), as a matrix."""

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[0] == 1:
            y = super().__call__(x)
            return y
        rows = x.shape[0]
        flat = x[:, 0]
        if rows < _LEAST:
            flat = mx.pad(flat, [(0, _LEAST - rows), (0, 0)])
        y = super().__call__(flat)
        return y[:rows, None]


def take_rows_together(model: Any) -> int:
    """Make every quantized linear layer of *model* a ``RowsLinear``; how many there are."""
    count = 0
    for _, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            module.__class__ = RowsLinear  # the same weights; nothing else of it is known here
            count += 1
    return count


def in_use() -> bool:
    """Does MLX compute on a CUDA device?"""
    return mx.default_device().type == mx.gpu and not mx.metal.is_available()
