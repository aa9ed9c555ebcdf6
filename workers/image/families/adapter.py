"""What the families have in common: loading, prompts, and the way between pictures and latents.

An adapter wraps the classes of mflux that draw for one family; the engine knows no family. "Packed"
latents are those that mflux denoises, in the family's own arrangement; "spatial" latents are what its
VAE decodes: (1, channels, height / 8, width / 8).

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.common.latent_creator.latent_creator import LatentCreator
from mflux.utils.image_util import ImageUtil
from mlx.utils import tree_flatten
from PIL.Image import Image

from contracts.settings.models import ImageSettings
from workers.engine import ImageJob
from workers.image.families import checkpoint
from workers.image.families.checkpoint import Part
from workers.image.families.prompts import PromptCache

log = logging.getLogger(__name__)

Latents = Any  # mx.array
TILED_FROM = 1024 * 1024  # pixels; the VAE's peak would be half as much again as the weights
MIB = 1 << 20


class Adapter(ABC):
    """A loaded model. Everything is called on the model thread.

    ``model`` is mflux's own object; ``prompts`` are the encoded prompts that it draws from.
    """

    parts: ClassVar[tuple[Part, ...]]
    definition: ClassVar[Any]  # mflux's weight definition
    tokenizer: ClassVar[str]  # mflux's name of the one whose tokens are counted
    optional: ClassVar[frozenset[str]] = frozenset()  # tensors that a full-size checkpoint may lack
    computed: ClassVar[frozenset[str]] = frozenset()  # that mflux works out, and its authors don't save
    native_mask: ClassVar[bool] = False

    def __init__(self, folder: Path, settings: ImageSettings) -> None:
        """Load from *folder*; raises ``LoadError`` for a checkpoint that isn't whole."""
        self._folder = folder
        self._settings = settings
        self._lean = settings.residency == "lean"
        self.tiny = checkpoint.tiny_config(folder)
        if self.tiny is not None:
            ModelConfig.precision = mx.float32
        self.config = self.model_config()
        self.prompts = PromptCache(settings.prompt_cache_mb * MIB)
        weights = checkpoint.read(folder, self.definition, self.parts)
        self.model: Any = self.build(weights)
        networks = {part: getattr(self.model, part.attribute) for part in self.parts}
        if self.tiny is not None:
            self.fit(weights.components, self.tiny)
            for part, network in networks.items():
                checkpoint.take_shapes(network, weights.components[part.component])
        optional = self.optional if self.tiny is None else frozenset()
        checkpoint.check(settings.family, folder, weights, networks, optional | self.computed)
        self.model.bits = checkpoint.fill(
            {part.component: network for part, network in networks.items()},
            weights,
            settings.quantize,
            self.definition,
        )
        self._add_loras(weights)
        del weights  # its tensors are the networks' now, or were replaced by quantized ones
        for part, network in networks.items():
            if self._lean and part.text:
                setattr(self.model, part.attribute, None)  # before anything of it is read
            else:
                self._settle(network)

    # --- what a family says about itself -----------------------------------------------------------

    @abstractmethod
    def model_config(self) -> Any:
        """mflux's ``ModelConfig``."""

    @abstractmethod
    def build(self, weights: Any) -> Any:
        """mflux's object with its tokenizers and its networks, these without weights."""

    @abstractmethod
    def network(self, part: Part) -> nn.Module:
        """A new network for *part*, a text encoder, without weights."""

    def fit(self, components: dict[str, Any], tiny: dict[str, Any]) -> None:
        """Set what shapes alone don't in the networks of a small checkpoint."""
        for _, module in self.model.vae.named_modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = tiny["vae_groups"]

    def fit_text(self, part: Part, network: nn.Module, weights: Any, tiny: dict[str, Any]) -> None:
        """Likewise, for a text encoder that is loaded again."""
        return  # most take everything from ``network``

    @abstractmethod
    def lora_mapping(self) -> Any:
        """Where mflux finds this family's layers in the files of LoRAs."""

    @abstractmethod
    def encode_anew(self, prompt: str) -> Any:
        """What mflux's model makes of *prompt*: arrays, not computed yet."""

    @abstractmethod
    def draw(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        """One picture of *job*. *strength*: mflux's, of a source; None: from noise."""

    @abstractmethod
    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        """Spatial values, arranged like packed latents and not scaled."""

    @abstractmethod
    def clean(self, source: Image) -> Latents:
        """*source* as packed latents without noise."""

    @abstractmethod
    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        """What the VAE decodes of *packed* latents of a picture of *width* x *height*."""

    # --- what all have -----------------------------------------------------------------------------

    @property
    def callbacks(self) -> Any:
        return self.model.callbacks

    @property
    def channels(self) -> int:
        channels: int = self.model.vae.latent_channels
        return channels

    def tokens(self, prompt: str) -> int:
        """How many tokens *prompt* has, as far as the model reads it."""
        tokenizer = self.model.tokenizers[self.tokenizer]
        ids = tokenizer.tokenizer(prompt, truncation=True, max_length=tokenizer.max_length)
        return len(ids["input_ids"])

    def tile(self, pixels: int) -> None:
        """Decide how the VAE works on pictures of so many *pixels*."""
        from mflux.models.common.vae.tiling_config import TilingConfig

        tiled = self._settings.vae_tiling
        if tiled is None:
            tiled = pixels >= TILED_FROM
        self.model.tiling_config = TilingConfig() if tiled else None

    def encode(self, prompt: str) -> None:
        """Have *prompt* in ``prompts``; text encoders that are not in memory come and go for it."""
        if prompt in self.prompts:
            self.prompts.move_to_end(prompt)
            return
        texts = [part for part in self.parts if part.text]
        absent = [part for part in texts if getattr(self.model, part.attribute) is None]
        try:
            for part in absent:
                setattr(self.model, part.attribute, self._text_encoder(part))
            self.prompts[prompt] = self.encode_anew(prompt)
        finally:
            if self._lean:
                for part in texts:
                    setattr(self.model, part.attribute, None)

    def decode(self, spatial: Latents) -> Image:
        """A picture of *spatial* latents, small enough to be decoded whole."""
        from mflux.models.common.vae.vae_util import VAEUtil

        image: Image = ImageUtil.to_pil(VAEUtil.decode(self.model.vae, spatial)).convert("RGB")
        return image

    def encode_picture(self, source: Image) -> Latents:
        """*source* as spatial latents, as mflux does it before it adds noise."""
        encoded = LatentCreator.encode_image(
            vae=self.model.vae,
            image_path=source,
            height=source.height,
            width=source.width,
            tiling_config=self.model.tiling_config,
        )
        return encoded[:, :, 0] if encoded.ndim == 5 else encoded

    def _text_encoder(self, part: Part) -> nn.Module:
        network = self.network(part)
        weights = checkpoint.read_part(self._folder, self.definition, part)
        tree = weights.components[part.component]
        if self.tiny is not None:
            self.fit_text(part, network, tree, self.tiny)
            checkpoint.take_shapes(network, tree)
        checkpoint.fill({part.component: network}, weights, self._settings.quantize, self.definition)
        self._settle(network)
        return network

    def _settle(self, network: nn.Module) -> None:
        """Compute the weights now: the load's time is honest, and so is its failure."""
        if self.tiny is not None:
            checkpoint.to_float32(network)
        mx.eval([value for _, value in tree_flatten(network.parameters())])

    def _add_loras(self, weights: Any) -> None:
        from workers.image.families import loras

        model, wanted = self.model, self._settings.loras
        model.lora_paths, model.lora_scales = [], []
        if wanted:
            loras.apply(model.transformer, wanted, self.lora_mapping(), weights)
