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
from workers.image.families import checkpoint, tiles
from workers.image.families.checkpoint import Part
from workers.image.families.copies import Saver
from workers.image.families.prompts import PromptCache

log = logging.getLogger(__name__)

Latents = Any  # mx.array
MIB = 1 << 20


def _size(network: nn.Module) -> int:
    """Bytes of the weights, which need not be computed."""
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def _full_size_channels(vae: Any) -> int:
    """Of the widest layer of the decoder's last block, which works at the size of the picture."""
    last = tree_flatten(vae.decoder.up_blocks[-1].parameters())
    return max(int(value.shape[-1]) for _, value in last if value.ndim == 4)


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

    def __init__(
        self,
        folder: Path,
        settings: ImageSettings,
        *,
        weights: Path | None = None,
        saver: Saver | None = None,
    ) -> None:
        """Load from *folder*; raises ``LoadError`` for a checkpoint that isn't whole.

        *weights*: where the weights are, if not there: a quantized copy. *saver*: makes one of weights
        that are quantized here.
        """
        self._folder = folder
        self._weights = weights or folder
        self._settings = settings
        self._lean = settings.residency == "lean"
        self.tiny = checkpoint.tiny_config(folder)
        if self.tiny is not None:
            ModelConfig.precision = mx.float32
        self.config = self.model_config()
        self.prompts = PromptCache(settings.prompt_cache_mb * MIB)
        read = checkpoint.read(self._weights, self.definition, self.parts)
        self.model: Any = self.build(read)
        networks = {part: getattr(self.model, part.attribute) for part in self.parts}
        if self.tiny is not None:
            self.fit(read.components, self.tiny)
            for part, network in networks.items():
                checkpoint.take_shapes(network, read.components[part.component])
        optional = self.optional if self.tiny is None else frozenset()
        checkpoint.check(settings.family, self._weights, read, networks, optional | self.computed)
        self.model.bits = checkpoint.fill(
            {part.component: network for part, network in networks.items()},
            read,
            settings.quantize,
            self.definition,
        )
        self._add_loras(read)
        was_quantized = read.meta_data.quantization_level is not None
        del read  # its tensors are the networks' now, or were replaced by quantized ones
        if saver is None or was_quantized:
            self._settle_parts(networks)
        else:
            self._settle_and_save_parts(networks, saver)
        kept = [getattr(self.model, part.attribute) for part in self.parts if not self._leaves(part)]
        self.resident = sum(_size(network) for network in kept)  # bytes, while a picture is drawn

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

    def tile(self, width: int, height: int) -> None:
        """Decide how the VAE works on a picture of *width* x *height*."""
        from mflux.models.common.vae.tiling_config import TilingConfig

        tiled = self._settings.vae_tiling
        if tiled is None:
            spare = self._settings.memory_bytes - self.resident
            tiled = tiles.in_tiles(width, height, _full_size_channels(self.model.vae), spare)
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
        if self._weights != self._folder:
            try:
                return self._settled(self._filled(part))
            except Exception as exc:  # removed or damaged since the load
                log.warning("the quantized copy %s can't be read any more: %s", self._weights, exc)
            self._weights = self._folder
        return self._settled(self._filled(part))

    def _filled(self, part: Part) -> nn.Module:
        """A new network with its weights, not computed yet.

        Nothing else holds the weights as they were read: 8 GB at 16 bits beside the 2 GB that
        quantizing makes of them.
        """
        network = self.network(part)
        weights = checkpoint.read_part(self._weights, self.definition, part)
        tree = weights.components[part.component]
        if self.tiny is not None:
            self.fit_text(part, network, tree, self.tiny)
            checkpoint.take_shapes(network, tree)
        checkpoint.fill({part.component: network}, weights, self._settings.quantize, self.definition)
        return network

    def _settle_parts(self, networks: dict[Part, nn.Module]) -> None:
        for part, network in networks.items():
            if self._leaves(part):
                setattr(self.model, part.attribute, None)  # before anything of it is read
            else:
                self._settle(network)

    def _settle_and_save_parts(self, networks: dict[Part, nn.Module], saver: Saver) -> None:
        """Those that leave memory go first, so that they never lie beside the others."""
        sizes = {part: _size(network) for part, network in networks.items()}
        with saver.writing(sum(sizes.values())):
            for part in sorted(networks, key=self._leaves, reverse=True):
                network = networks.pop(part)
                if saver.is_writing or not self._leaves(part):
                    self._settle(network)
                saver.save(part.folder, network, sizes[part])
                if self._leaves(part):
                    setattr(self.model, part.attribute, None)
                del network
                mx.clear_cache()
            saver.finish()
        if saver.saved:
            self._weights = saver.copy.folder

    def _leaves(self, part: Part) -> bool:
        """Does *part* leave memory once a prompt is read?"""
        return self._lean and part.text

    def _settle(self, network: nn.Module) -> None:
        """Compute the weights now: the load's time is honest, and so is its failure."""
        if self.tiny is not None:
            checkpoint.to_float32(network)
        checkpoint.compute(network)

    def _settled(self, network: nn.Module) -> nn.Module:
        self._settle(network)
        return network

    def _add_loras(self, weights: Any) -> None:
        from workers.image.families import loras

        model, wanted = self.model, self._settings.loras
        model.lora_paths, model.lora_scales = [], []
        if wanted:
            loras.apply(model.transformer, wanted, self.lora_mapping(), weights)
