"""Workarounds for MLX's CUDA back end. Imported by the VLM engine.

There, MLX 0.32.4 multiplies an input (B, 1, K) with quantized weights row by row, so that a decode step
of B sequences takes B times as long as one. The same rows as a matrix (B, K) take one pass if there are
at least eight; padding fewer rows to eight is faster than two to seven passes (figures:
docs/dev/gpu.md).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx  # noqa: TID251 - part of the VLM engine
import mlx.nn as nn  # noqa: TID251

_MIN_ROWS = 8  # for which the back end needs a single pass


class RowsLinear(nn.QuantizedLinear):  # type: ignore[misc]
    """A quantized layer that multiplies rows of one position each, (B, 1, K), as a matrix."""

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[0] == 1:
            y = super().__call__(x)
            return y
        rows = x.shape[0]
        flat = x[:, 0]
        if rows < _MIN_ROWS:
            flat = mx.pad(flat, [(0, _MIN_ROWS - rows), (0, 0)])
        y = super().__call__(flat)
        return y[:rows, None]


def take_rows_together(model: Any) -> int:
    """Make every quantized linear layer of *model* a ``RowsLinear``. Returns their number."""
    count = 0
    for _, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            module.__class__ = RowsLinear  # keeps the weights and everything else
            count += 1
    return count


def in_use() -> bool:
    """Does MLX run on a CUDA device?"""
    return mx.default_device().type == mx.gpu and not mx.metal.is_available()
