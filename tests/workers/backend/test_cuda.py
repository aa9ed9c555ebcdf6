"""A batch's rows as one matrix give the same numbers, whatever the shape."""

from __future__ import annotations

import pytest

from workers.backend import runtime

runtime.prepare()

import mlx.core as mx  # noqa: E402, TID251 - what is tested
import mlx.nn as nn  # noqa: E402, TID251

from workers.backend.cuda import RowsLinear, in_use, take_rows_together  # noqa: E402

pytestmark = pytest.mark.mlx


class Pair(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inner = [nn.QuantizedLinear(64, 128, bias=True), nn.Linear(128, 64)]
        self.outer = nn.QuantizedLinear(64, 64, bias=False)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (7, 1), (8, 1), (16, 1), (1, 5), (3, 4)])
def test_rows_together_give_the_same_as_each_alone(shape: tuple[int, int]) -> None:
    mx.random.seed(1)
    pair = Pair()
    x = mx.random.normal((*shape, 64))
    expected = [layer(x) for layer in (pair.inner[0], pair.outer)]
    assert take_rows_together(pair) == 2
    found = [layer(x) for layer in (pair.inner[0], pair.outer)]
    for ours, plain in zip(found, expected, strict=True):
        assert ours.shape == plain.shape
        assert mx.allclose(ours, plain, atol=1e-5).item()
    assert isinstance(pair.outer, RowsLinear)
    assert type(pair.inner[1]) is nn.Linear


def test_rows_of_one_position_reach_the_library_as_a_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    plain = nn.QuantizedLinear.__call__

    def recording(self: nn.QuantizedLinear, x: mx.array) -> mx.array:
        seen.append(x.shape)
        y: mx.array = plain(self, x)
        return y

    monkeypatch.setattr(nn.QuantizedLinear, "__call__", recording)
    pair = Pair()
    take_rows_together(pair)
    for rows in (1, 3, 8, 16):
        pair.outer(mx.zeros((rows, 1, 64)))
    assert seen == [(1, 1, 64), (8, 64), (8, 64), (16, 64)]


def test_a_cpu_is_not_a_cuda_device() -> None:
    assert not in_use()
