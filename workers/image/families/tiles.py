"""Whether the VAE works on a picture whole or in tiles. Pure.

Tiles save memory and cost quality: each is normalized by itself, so colours may differ a little from
tile to tile. So a picture is tiled only where its activations don't fit beside the weights.
"""

from __future__ import annotations

TILE = 512  # side of mflux's tiles; a picture that fits into one is never cut
# Of the widest layer at full size: input and output at 16 bits, and the 32-bit copies that the norm
# between them makes. Others measured FLUX.1 on an M5 Pro: 14.6 GB at 768 x 1344, 9.85 of them weights.
# That is 10 % below this estimate. We measured nothing on Metal.
_BYTES = 16
_SCORE_BYTES = 4  # of a pair of latents in the attention of the middle block: scores and their softmax
_LATENT = 8  # pixels of its side


def vae_bytes(width: int, height: int, channels: int) -> int:
    """What decoding a picture whole takes at its peak. *channels*: of the decoder's widest layer at
    full size."""
    latents = width * height // _LATENT**2
    return width * height * channels * _BYTES + latents * latents * _SCORE_BYTES


def in_tiles(width: int, height: int, channels: int, spare: int) -> bool:
    """Is a picture of *width* x *height* to be tiled when *spare* bytes are left beside the weights?"""
    if max(width, height) <= TILE:
        return False
    return vae_bytes(width, height, channels) > spare
