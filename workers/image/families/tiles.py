"""Whether the VAE decodes an image as a whole or in tiles. Pure.

Tiles save memory and cost quality: each is normalized separately, so colours may differ slightly
between tiles. An image is tiled only if its activations don't fit beside the weights.
"""

from __future__ import annotations

TILE = 512  # pixels: side of mflux's tiles; an image that fits into one is never tiled
# Per pixel and channel of the widest layer at full size: input and output at 16 bits, and the 32-bit
# copies that the norm between them makes. Others measured FLUX.1 on an M5 Pro: 14.6 GB at 768 x 1344,
# of which 9.85 are weights. That is 10 % below this estimate. We measured nothing on Metal.
_BYTES = 16
_SCORE_BYTES = 4  # per pair of latents in the middle block's attention: scores and their softmax
_LATENT = 8  # pixels: side of the square that one latent stands for


def vae_bytes(width: int, height: int, channels: int) -> int:
    """Peak bytes of decoding a whole image. *channels*: of the decoder's widest layer at full size."""
    latents = width * height // _LATENT**2
    return width * height * channels * _BYTES + latents * latents * _SCORE_BYTES


def in_tiles(width: int, height: int, channels: int, spare: int) -> bool:
    """Must an image of *width* x *height* be tiled if *spare* bytes are left beside the weights?"""
    if max(width, height) <= TILE:
        return False
    return vae_bytes(width, height, channels) > spare
