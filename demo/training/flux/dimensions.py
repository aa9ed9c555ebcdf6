"""The sizes of the small FLUX.1. They are stored with the checkpoint as tiny.json.

The weights imply most sizes but not all (head counts, for one), and mflux hard-codes those of FLUX.1,
so the loader reads them from that file.
"""

from __future__ import annotations

from dataclasses import dataclass

# FLUX.1's VAE constants; mflux hard-codes them.
LATENT_SCALE, LATENT_SHIFT = 0.3611, 0.1159
LATENT_CHANNELS = 16
TOKEN_PIXELS = 16  # side of the square that one latent token covers


@dataclass(frozen=True)
class Dimensions:
    # transformer
    dim: int = 192
    heads: int = 3
    head_dim: int = 64
    axes_dim: tuple[int, int, int] = (8, 28, 28)  # of a head: text, row, column; sums to head_dim
    mlp: int = 768
    double: int = 2
    single: int = 4
    # T5; its heads must be a multiple of 64, or the position bias cannot be quantized
    t5_dim: int = 128
    t5_heads: int = 64
    t5_kv: int = 2
    t5_ff: int = 256
    t5_layers: int = 2
    # CLIP
    clip_dim: int = 64
    clip_heads: int = 4
    clip_layers: int = 2
    # VAE; with FLUX.1's 32 norm groups, flat colours would be lost at these widths
    vae_ch: tuple[int, int, int] = (32, 64, 64)
    vae_groups: int = 4
    # prompts, in tokens
    max_t5: int = 32
    max_clip: int = 40
    t5_vocab: int = 246
    clip_vocab: int = 737
