"""The VAE decodes in tiles if the image would not fit beside the weights, whatever its shape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.settings.base import GIB
from workers.image.families.tiles import TILE, in_tiles, vae_bytes

CHANNELS = 256  # of the VAE of every family, at full size
MADROID = 9_850_000_000  # bytes: FLUX.1-schnell at 4 bits as config.yaml has it
SIDES = st.integers(16, 256).map(lambda n: 16 * n)


def tiled(width: int, height: int, memory_gb: float, weights: int = MADROID) -> bool:
    return in_tiles(width, height, CHANNELS, int(memory_gb * GIB) - weights)


def test_an_image_that_does_not_fit_is_tiled_tall_or_wide() -> None:
    for size in ((768, 1344), (1344, 768), (1024, 1024), (768, 768), (2048, 512)):
        assert tiled(*size, memory_gb=11), size
    assert not tiled(512, 512, memory_gb=11)


def test_with_enough_memory_no_image_is_tiled() -> None:
    for size in ((768, 1344), (1344, 768), (1024, 1024)):
        assert not tiled(*size, memory_gb=16), size


def test_an_image_of_one_tile_is_never_tiled() -> None:
    assert not in_tiles(TILE, TILE, CHANNELS, -(10**9))
    assert in_tiles(TILE + 16, TILE, CHANNELS, -(10**9))


def test_the_estimate_is_near_others_measurements() -> None:
    # mflux on an M5 Pro: 14.6 GB at 768 x 1344, 9.85 of them weights.
    assert 0.95 < vae_bytes(768, 1344, CHANNELS) / (14.6e9 - MADROID) < 1.25


@given(SIDES, SIDES, st.integers(0, 40 * 10**9))
def test_orientation_does_not_matter_and_more_memory_or_less_image_never_adds_tiles(
    width: int, height: int, spare: int
) -> None:
    cut = in_tiles(width, height, CHANNELS, spare)
    assert cut == in_tiles(height, width, CHANNELS, spare)
    assert cut or not in_tiles(width, height, CHANNELS, spare + 10**9)
    assert cut or width < 32 or not in_tiles(width - 16, height, CHANNELS, spare)
