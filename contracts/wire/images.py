"""Image generation and edits on the wire: requests, responses, stream events.

Rules: those of ``contracts.wire``. Checks that hold for every model are here; checks that depend on the
model's family are in ``contracts.capabilities``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from contracts.families import Quality
from contracts.wire import Faulty, Finite, Prompt, Request, Seed, Unsupported, as_list

DEFAULT_STRENGTH = 0.7
DEFAULT_MASKED_STRENGTH = 1.0  # replace the masked area

Images = Annotated[
    list[str], BeforeValidator(as_list, json_schema_input_type=str | list[str]), Field(min_length=1)
]


def _as_text(value: Any) -> Any:
    """OpenAI's JSON form of a mask is ``{"image_url": ...}``."""
    if not isinstance(value, dict):
        return value
    return ImageReference.model_validate(value, strict=True).image_url


class ImageReference(BaseModel):
    """An input image in OpenAI's JSON form. ``image_url`` is a data URI or a URL."""

    model_config = ConfigDict(frozen=True, extra="allow")

    image_url: str = ""
    file_id: str | None = None

    @model_validator(mode="after")
    def _has_a_url(self) -> Self:
        if self.file_id is not None:
            raise Unsupported("file_id", "files are not supported: send the image in image_url")
        if not self.image_url:
            raise Faulty("image_url", "is required")
        return self


OutputFormat = Literal["png", "jpeg", "webp"]
# OpenAI's quality values, including those of retired models -> the levels of our families.
_QUALITIES: Mapping[str, Quality] = {
    "auto": "auto",
    "low": "low",
    "medium": "medium",
    "standard": "medium",
    "high": "high",
    "hd": "high",
    "xhigh": "high",
    "max": "high",
}
# Fields of OpenAI's newest models. Ignoring them would give a wrong result.
_NOT_SUPPORTED = ("svg", "markup", "frame_count", "frame_duration_ms")


class _ImageRequest(Request):
    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    seed: Seed | None = None
    guidance: Annotated[Finite, Field(ge=0, le=50)] | None = None
    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: OutputFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    # Accepted and ignored.
    moderation: str | None = None
    style: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _needs_only_supported_features(self) -> Self:
        if self.background == "transparent":
            raise Unsupported("background", "only an opaque background is supported")
        if self.partial_images and not self.stream:
            raise Faulty("partial_images", "requires stream: true")
        if self.stream and self.response_format == "url":
            raise Unsupported("response_format", "streams support only 'b64_json'")
        for name in _NOT_SUPPORTED:
            if (self.model_extra or {}).get(name):
                raise Unsupported(name, f"{name} is not supported")
        return self

    @property
    def quality_level(self) -> Quality:
        """``quality`` as one of the levels for which families define steps."""
        return _QUALITIES[self.quality or "auto"]


class ImageGenerationRequest(_ImageRequest):
    """A request to generate images."""


class ImageEditRequest(_ImageRequest):
    """A request to edit an image.

    ``image`` is one image or a list, of which the first is edited; ``images`` is the same in OpenAI's
    JSON form. The transparent areas of ``mask`` are redrawn, or its white areas if it has no
    transparency. A ``strength`` of 0 returns the original; 1 redraws it completely.
    """

    image: Images | None = None
    images: Annotated[list[ImageReference] | None, Field(min_length=1)] = None
    mask: Annotated[
        str | None, BeforeValidator(_as_text, json_schema_input_type=str | ImageReference | None)
    ] = None
    strength: Annotated[Finite, Field(ge=0, le=1)] | None = None
    input_fidelity: str | None = None  # accepted and ignored

    @model_validator(mode="after")
    def _has_its_images_in_one_field(self) -> Self:
        if self.image is None and self.images is None:
            raise Faulty("image", "is required")
        if self.image is not None and self.images is not None:
            raise Faulty("images", "send either image or images, not both")
        return self

    @property
    def input_images(self) -> list[tuple[str, str]]:
        """The images to edit as (field name, text), from ``image`` or ``images``."""
        if self.image is None:
            return [(f"images[{i}].image_url", r.image_url) for i, r in enumerate(self.images or ())]
        if len(self.image) == 1:
            return [("image", self.image[0])]
        return [(f"image[{i}]", text) for i, text in enumerate(self.image)]

    @property
    def strength_or_default(self) -> float:
        if self.strength is not None:
            return self.strength
        return DEFAULT_MASKED_STRENGTH if self.mask else DEFAULT_STRENGTH


ImageRequest = ImageGenerationRequest | ImageEditRequest


# --- responses -----------------------------------------------------------------------------------


class ImageData(BaseModel):
    """An image in ``b64_json`` or at ``url``, and the seed that reproduces it."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str
    seed: int


class InputTokenDetails(BaseModel):
    image_tokens: int
    text_tokens: int


class OutputTokenDetails(BaseModel):
    image_tokens: int
    text_tokens: int = 0


class ImageUsage(BaseModel):
    """``latency``: seconds that the model worked. An image has one token per 16x16 pixels."""

    latency: float
    seed: int
    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class ImagesResponse(BaseModel):
    """The images. ``quality`` is absent if it was ``auto``, which OpenAI's responses never have."""

    created: int
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Quality | None = None
    size: str
    model: str
    usage: ImageUsage


class ImageStreamEvent(BaseModel):
    """A stream event. ``type`` is its name: ``image_generation.partial_image`` or
    ``image_generation.completed``, and the same with ``image_edit``.

    ``image_index``, which OpenAI does not have, numbers the images of a request. Partial images have a
    ``partial_image_index``; completed ones have ``usage``.
    """

    type: str
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: OutputFormat
    quality: Quality
    size: str
    image_index: int
    partial_image_index: int | None = None
    usage: ImageUsage | None = None

    def data(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)
