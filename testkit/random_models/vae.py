"""A narrow VAE: mflux's layers, with few channels."""

from __future__ import annotations

from typing import Any

# Channels of a VAE, mflux's -> tiny. Its convolutions dominate the cost of a small image.
_WIDTHS = {128: 16, 256: 32, 512: 64}
GROUPS = 8  # of their GroupNorms; mflux's have 32


def shrink_vae(vae: Any) -> None:
    """Replace mflux's layers of 128, 256 and 512 channels by narrower ones; only for saving."""
    import mlx.nn as nn  # noqa: TID251

    def narrower(child: Any) -> Any:
        if isinstance(child, nn.Conv2d):
            out, height, width, into = child.weight.shape
            return nn.Conv2d(_WIDTHS.get(into, into), _WIDTHS.get(out, out), (height, width))
        if isinstance(child, nn.GroupNorm):
            return nn.GroupNorm(GROUPS, _WIDTHS[child.weight.shape[0]])
        if isinstance(child, nn.Linear):
            return nn.Linear(_WIDTHS[512], _WIDTHS[512])
        if isinstance(child, nn.Module):
            shrink_vae(child)
        elif isinstance(child, list):
            return [narrower(item) for item in child]
        return child

    for name, child in list(vae.items()):
        vae[name] = narrower(child)
