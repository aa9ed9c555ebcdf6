"""Model settings: checkpoint, memory, limits and defaults of requests."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from contracts.errors import InvalidRequest
from contracts.families import FAMILIES, Family, Quality
from contracts.media import parse_size
from contracts.revisions import NAME
from contracts.settings.base import GIB, Gigabytes, IdleSeconds, Name, Port, Section


def _date_as_text(value: object) -> object:
    """YAML parses a tag such as 2025-06-21 as a date."""
    return value.isoformat() if isinstance(value, date) else value


RevisionName = Annotated[str, Field(pattern=rf"^{NAME.pattern}$"), BeforeValidator(_date_as_text)]


class _ModelSettings(Section):
    path: Annotated[str, Field(min_length=1)]  # a Hugging Face id, or a folder (./, ../, / or ~)
    revision: RevisionName | None = None  # a commit, tag or branch; None: see contracts.revisions
    port: Port
    memory_gb: Gigabytes
    names: list[Name] = Field(default_factory=list)
    idle_timeout_s: IdleSeconds | None = None  # None: manager.idle_timeout_s
    pinned: bool = False
    preload: bool = False

    @model_validator(mode="after")
    def _only_a_repository_has_revisions(self) -> Self:
        if self.revision is not None and is_folder(self.path):
            raise ValueError(f"revision: {self.path} is a folder; only Hugging Face ids have revisions")
        return self

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gb * GIB)

    @property
    def large_image_pixels(self) -> int:
        """Pixels from which an image shows the model's full memory use.

        Until the model has processed an image of this size, measured peaks can raise its estimate
        above ``memory_gb``, but not lower it: text and thumbnails need far less memory.
        """
        raise NotImplementedError


class VlmSettings(_ModelSettings):
    kind: Literal["vlm"]
    max_tokens: Annotated[int, Field(ge=1)] = 1024  # per completion, if the request sets no limit
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 8  # sequences decoded concurrently
    kv_bits: Literal[4, 8] | None = None  # quantization of the KV cache; None: none
    prefix_cache_mb: Annotated[int, Field(ge=0)] = 512  # MiB
    vision_cache_mb: Annotated[int, Field(ge=0)] = 128  # MiB
    prefill_tokens: Annotated[int, Field(ge=32)] = 512  # tokens per prefill chunk, at most
    # Attention over the image prefix of Moondream2; None: decided by its tokenizer.
    image_prefix: Literal["causal", "bidirectional"] | None = None
    max_pixels: Annotated[int, Field(ge=784)] = 4096 * 784  # per image; Qwen: 28 x 28 per token
    trust_remote_code: bool = False  # run Python files of the checkpoint

    @property
    def large_image_pixels(self) -> int:
        return self.max_pixels // 4


class LoraSettings(Section):
    path: Annotated[str, Field(min_length=1)]  # a .safetensors file, or a Hugging Face id
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0


class ImageSettings(_ModelSettings):
    kind: Literal["image"]
    family: str  # a row of contracts.families
    quantize: Literal[3, 4, 5, 6, 8] | None = None  # bits; None: as stored in the checkpoint
    # Save the quantized weights of a download on disk, and load them from then on.
    save_quantized: bool = True
    loras: list[LoraSettings] = Field(default_factory=list)
    steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: the family's
    edit_steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: steps, else the family's
    guidance: Annotated[float, Field(ge=0, le=50)] | None = None  # None: the family's
    size: str = "1024x1024"
    max_pixels: Annotated[int, Field(ge=256)] = 2048 * 2048
    metadata: bool = True  # write prompt and parameters into the image file
    # lean: free the text encoders after encoding a prompt, and load them again for the next new one.
    residency: Literal["fast", "lean"] = "fast"
    prompt_cache_mb: Annotated[int, Field(ge=0)] = 64  # MiB of encoded prompts
    vae_tiling: bool | None = None  # None: only if the whole image would exceed memory_gb
    cache_limit_mb: Annotated[int, Field(ge=0)] = 1024  # MiB of freed buffers that MLX keeps

    @field_validator("family")
    @classmethod
    def _family_is_supported(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
        if FAMILIES[family].experimental:
            raise ValueError(f"{family!r} is experimental and not supported by this version")
        return family

    @property
    def traits(self) -> Family:
        """The model's family: its capabilities and defaults."""
        return FAMILIES[self.family]

    @property
    def large_image_pixels(self) -> int:
        size = parse_size(self.size, max_pixels=self.max_pixels)
        return size.width * size.height // 2

    @property
    def default_guidance(self) -> float:
        return self.traits.default_guidance if self.guidance is None else self.guidance

    def default_steps(self, quality: Quality = "auto", *, edit: bool = False) -> int:
        """Steps of a request that sets none.

        "auto": the configured number, else the family's. Other levels: the family's, scaled for an
        edit by the ratio of its ``edit_steps`` to its ``steps``.
        """
        family = self.traits
        if quality != "auto":
            steps = family.quality[quality]
            return steps * family.edit_steps // family.steps if edit else steps
        if edit:
            return self.edit_steps or self.steps or family.edit_steps
        return self.steps or family.steps

    @model_validator(mode="after")
    def _default_size_is_valid(self) -> Self:
        try:
            parse_size(self.size, max_pixels=self.max_pixels)
        except InvalidRequest as exc:
            raise ValueError(f"size: {exc.message}") from exc
        return self


ModelSettings = Annotated[VlmSettings | ImageSettings, Field(discriminator="kind")]


def is_folder(path: str) -> bool:
    """Whether the ``path`` of a model is a folder rather than a Hugging Face id."""
    return path.startswith(("./", "../", "/", "~"))
