"""What FLUX.2 klein and Z-Image share: the text encoder, a Qwen3; a VAE that decodes in strips;
compiled steps that are kept from image to image.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from mflux.models.common.vae.block_decoder import VAEBlockDecoder

from workers.image.families.adapter import Adapter
from workers.image.families.checkpoint import Part

COMPILED_STEPS = 4  # that a model keeps


class Qwen3Adapter(Adapter):
    parts = (
        Part("vae", "vae", "vae"),
        Part("transformer", "transformer", "transformer"),
        Part("text_encoder", "text_encoder", "text_encoder", text=True),
    )
    computed = frozenset({"rotary_emb.inv_freq"})

    def tile(self, width: int, height: int) -> None:
        """Decode in strips of rows, or the whole image at once if the settings forbid tiling."""
        super().tile(width, height)
        whole = self._settings.vae_tiling is False
        self.model.vae.decode_mode = VAEBlockDecoder.LEGACY if whole else VAEBlockDecoder.LOW_MEMORY


class CompiledSteps:
    """The transformer steps compiled last, one for each combination of shapes.

    mflux compiles its step again for every image. A compiled step is valid for the shapes that it was
    traced with (image size, prompt length, input images), so each combination has its own, and few are
    kept: otherwise every new size or prompt length would add one. Belongs to the model thread.
    """

    def __init__(self) -> None:
        self.shapes: Hashable = None  # of the next image; set before its steps run
        self._steps: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def get(self, compile_step: Callable[[], Any]) -> Any:
        """The compiled step for ``shapes``; *compile_step* makes a missing one."""
        if self.shapes not in self._steps:
            self._steps[self.shapes] = compile_step()
        self._steps.move_to_end(self.shapes)
        while len(self._steps) > COMPILED_STEPS:
            self._steps.popitem(last=False)
        return self._steps[self.shapes]
