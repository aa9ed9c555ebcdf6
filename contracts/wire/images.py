"""Requests for pictures, and the answers, in OpenAI's shapes.

Rules: those of ``contracts.wire``. What depends on the model (its family, its limits) is decided by
``contracts.capabilities``; what can't be right for any model is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from contracts.families import Quality
from contracts.wire import Faulty, Finite, Prompt, Request, Seed, Unsupported, as_list

DEFAULT_STRENGTH = 0.7
DEFAULT_MASKED_STRENGTH = 1.0  # what a mask marks is to be replaced

Images = Annotated[
    list[str], BeforeValidator(as_list, json_schema_input_type=str | list[str]), Field(min_length=1)
]


def _as_text(value: Any) -> Any:
    """A mask as OpenAI's JSON form has it, ``{"image_url": ...}``, as the text in it."""
    if not isinstance(value, dict):
        return value
    return ImageReference.model_validate(value, strict=True).image_url


class ImageReference(BaseModel):
    """An input picture as OpenAI's JSON form of edits has it; ``image_url`` may be a data URI."""

    model_config = ConfigDict(frozen=True, extra="allow")

    image_url: str = ""
    file_id: str | None = None

    @model_validator(mode="after")
    def _has_its_picture_with_it(self) -> Self:
        if self.file_id is not None:
            raise Unsupported("file_id", "no files are kept here: send the picture in image_url")
        if not self.image_url:
            raise Faulty("image_url", "is required")
        return self


OutputFormat = Literal["png", "jpeg", "webp"]
# OpenAI's words, those of its retired models among them, and the rungs that families have.
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
# Of OpenAI's newest models; to leave them out silently would be a wrong answer.
_NOT_OFFERED = ("svg", "markup", "frame_count", "frame_duration_ms")


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
    # Taken, and of no effect: there is nothing here that they could change.
    moderation: str | None = None
    style: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _asks_only_for_what_is_offered(self) -> Self:
        if self.background == "transparent":
            raise Unsupported("background", "only an opaque background is offered")
        if self.partial_images and not self.stream:
            raise Faulty("partial_images", "come in a stream: send stream: true with them")
        if self.stream and self.response_format == "url":
            raise Unsupported("response_format", "a stream carries its pictures: use 'b64_json'")
        for name in _NOT_OFFERED:
            if (self.model_extra or {}).get(name):
                raise Unsupported(name, f"{name} is not offered")
        return self

    @property
    def rung(self) -> Quality:
        """``quality`` as one of those that families tell steps for."""
        return _QUALITIES[self.quality or "auto"]


class ImageGenerationRequest(_ImageRequest):
    """``POST /v1/images/generations``."""


class ImageEditRequest(_ImageRequest):
    """``POST /v1/images/edits`` as JSON; multipart forms are turned into it by the gateway.

    ``image``: the one to edit first, or ``images`` as OpenAI's JSON form has them. ``mask``: where it
    is transparent or white the picture is redrawn.
    ``strength``: 0 gives the original back, 1 redraws it wholly.
    """

    image: Images | None = None
    images: Annotated[list[ImageReference] | None, Field(min_length=1)] = None
    mask: Annotated[
        str | None, BeforeValidator(_as_text, json_schema_input_type=str | ImageReference | None)
    ] = None
    strength: Annotated[Finite, Field(ge=0, le=1)] | None = None
    input_fidelity: str | None = None  # taken, and of no effect

    @model_validator(mode="after")
    def _has_its_pictures_in_one_place(self) -> Self:
        if self.image is None and self.images is None:
            raise Faulty("image", "is required")
        if self.image is not None and self.images is not None:
            raise Faulty("images", "the pictures are in image already")
        return self

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """The pictures to edit, each with the name of its field, in whichever field they came."""
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


# --- answers -------------------------------------------------------------------------------------


class ImageData(BaseModel):
    """A picture in ``b64_json`` or at ``url``, and the seed that draws it again."""

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
    """``latency``: seconds of work. Tokens: prompt tokens in, 16 x 16 pixel patches in and out."""

    latency: float
    seed: int
    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class ImagesResponse(BaseModel):
    """``quality`` is absent when it was "auto": OpenAI's answers know no such word."""

    created: int
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Quality | None = None
    size: str
    model: str
    usage: ImageUsage


class ImageStreamEvent(BaseModel):
    """An event of a stream; ``type`` is its name.

    ``image_generation.partial_image``, ``image_generation.completed``, and ``image_edit`` likewise.
    ``image_index`` (ours) tells the *n* pictures of one request apart; ``partial_image_index`` is there
    for partial pictures, ``usage`` for complete ones.
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
