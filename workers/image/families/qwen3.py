"""What FLUX.2 klein and Z-Image share: one text encoder, a Qwen3, and a VAE that works in strips.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from mflux.models.common.vae.block_decoder import VAEBlockDecoder

from workers.image.families.adapter import Adapter
from workers.image.families.checkpoint import Part


class Qwen3Adapter(Adapter):
    parts = (
        Part("vae", "vae", "vae"),
        Part("transformer", "transformer", "transformer"),
        Part("text_encoder", "text_encoder", "text_encoder", text=True),
    )
    computed = frozenset({"rotary_emb.inv_freq"})

    def tile(self, width: int, height: int) -> None:
        """This VAE decodes in strips of rows; where the config says no, the whole picture at once."""
        super().tile(width, height)
        whole = self._settings.vae_tiling is False
        self.model.vae.decode_mode = VAEBlockDecoder.LEGACY if whole else VAEBlockDecoder.LOW_MEMORY
