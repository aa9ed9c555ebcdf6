"""The settings of one model: what it is, how much of it, and how it answers by default."""

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
    """A tag such as 2025-06-21 is a date to YAML."""
    return value.isoformat() if isinstance(value, date) else value


RevisionName = Annotated[str, Field(pattern=rf"^{NAME.pattern}$"), BeforeValidator(_date_as_text)]


class _ModelSettings(Section):
    path: Annotated[str, Field(min_length=1)]  # a Hugging Face id, or a folder (./, ../, / or ~)
    revision: RevisionName | None = None  # a commit, tag or branch; None: as contracts.revisions says
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
    def large_picture(self) -> int:
        """Pixels of a picture whose peak stands for what the model needs.

        Until a picture of this size has been served, a measured peak can raise the charge of the model
        above ``memory_gb``, but never lower it: a text or a thumbnail needs far less than a picture.
        """
        raise NotImplementedError


class VlmSettings(_ModelSettings):
    kind: Literal["vlm"]
    max_tokens: Annotated[int, Field(ge=1)] = 1024  # of an answer when the client sets no limit
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 8  # answers that are drawn at a time
    kv_bits: Literal[4, 8] | None = None  # of keys and values; None: as the model computes
    prefix_cache_mb: Annotated[int, Field(ge=0)] = 512  # MiB of prompts that are kept
    vision_cache_mb: Annotated[int, Field(ge=0)] = 128  # MiB of seen pictures that are kept
    prefill_tokens: Annotated[int, Field(ge=32)] = 512  # of a prompt that are read in one go, at most
    image_prefix: Literal["causal", "bidirectional"] | None = None  # Moondream2; None: by its tokenizer
    max_pixels: Annotated[int, Field(ge=784)] = 4096 * 784  # of an image; 28 x 28 are one token of Qwen
    trust_remote_code: bool = False  # run the Python files that come with the checkpoint

    @property
    def large_picture(self) -> int:
        return self.max_pixels // 4


class LoraSettings(Section):
    path: Annotated[str, Field(min_length=1)]  # a .safetensors file, or a Hugging Face id
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0


class ImageSettings(_ModelSettings):
    kind: Literal["image"]
    family: str  # a row of contracts.families
    quantize: Literal[3, 4, 5, 6, 8] | None = None  # bits; None: as the checkpoint is
    # Keep what ``quantize`` makes of a download on disk, and load that from then on.
    save_quantized: bool = True
    loras: list[LoraSettings] = Field(default_factory=list)
    steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: the family's
    edit_steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: steps, else the family's
    guidance: Annotated[float, Field(ge=0, le=50)] | None = None  # None: the family's
    size: str = "1024x1024"
    max_pixels: Annotated[int, Field(ge=256)] = 2048 * 2048
    metadata: bool = True  # what was asked for is written into the picture's file
    # lean: text encoders leave memory once a prompt is read, and are loaded again for the next new one.
    residency: Literal["fast", "lean"] = "fast"
    prompt_cache_mb: Annotated[int, Field(ge=0)] = 64  # MiB of encoded prompts that are kept
    vae_tiling: bool | None = None  # work in tiles; None: where the whole would exceed memory_gb
    cache_limit_mb: Annotated[int, Field(ge=0)] = 1024  # MiB of freed buffers that MLX keeps

    @field_validator("family")
    @classmethod
    def _family_is_one_that_has_drawn(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is not a family; there are {', '.join(FAMILIES)}")
        if FAMILIES[family].experimental:
            raise ValueError(
                f"{family!r} is experimental: this version can't be trusted to draw with it"
            )
        return family

    @property
    def traits(self) -> Family:
        """What the model's family can do."""
        return FAMILIES[self.family]

    @property
    def large_picture(self) -> int:
        size = parse_size(self.size, max_pixels=self.max_pixels)
        return size.width * size.height // 2

    @property
    def default_guidance(self) -> float:
        return self.traits.default_guidance if self.guidance is None else self.guidance

    def default_steps(self, quality: Quality = "auto", *, edit: bool = False) -> int:
        """Steps of a request that names none.

        "auto" is the config's number, else the family's; the others are the family's own, of an edit
        as many times more as its edits take.
        """
        family = self.traits
        if quality != "auto":
            steps = family.quality[quality]
            return steps * family.edit_steps // family.steps if edit else steps
        if edit:
            return self.edit_steps or self.steps or family.edit_steps
        return self.steps or family.steps

    @model_validator(mode="after")
    def _default_size_is_one_that_may_be_asked_for(self) -> Self:
        try:
            parse_size(self.size, max_pixels=self.max_pixels)
        except InvalidRequest as exc:
            raise ValueError(f"size: {exc.message}") from exc
        return self


ModelSettings = Annotated[VlmSettings | ImageSettings, Field(discriminator="kind")]


def is_folder(path: str) -> bool:
    """Whether the ``path`` of a model means a folder, and not a Hugging Face id."""
    return path.startswith(("./", "../", "/", "~"))
