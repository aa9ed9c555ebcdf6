"""The API's requests and answers in OpenAI's shapes: images, analysis, models; chat from two modules.

Rules: those of ``contracts.wire``; the other tiers import from here.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from contracts.chat import ChatRequest, Detail, MaxPixels, Message
from contracts.completions import ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChatUsage
from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire import (
    MAX_SEED,
    Faulty,
    Finite,
    KeepAlive,
    Prompt,
    Request,
    Seed,
    Unsupported,
    as_list,
    param_name,
    parse_form,
    parse_json,
    read_keep_alive,
)

__all__ = [
    "MAX_SEED",
    "AnalyzeRequest",
    "AnalyzeResponse",
    "AnalyzeUsage",
    "ChatChoice",
    "ChatChunk",
    "ChatCompletion",
    "ChatMessage",
    "ChatRequest",
    "ChatUsage",
    "ImageData",
    "ImageEditRequest",
    "ImageGenerationRequest",
    "ImageUsage",
    "ImagesResponse",
    "InputTokenDetails",
    "KeepAlive",
    "Message",
    "ModelList",
    "ModelObject",
    "TaskList",
    "TaskObject",
    "param_name",
    "parse_form",
    "parse_json",
    "read_keep_alive",
]

DEFAULT_ANALYZE_TOKENS = 512
DEFAULT_STRENGTH = 0.7

Images = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]

# --- images --------------------------------------------------------------------------------------


class _ImageRequest(Request):
    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    seed: Seed | None = None
    guidance: Annotated[Finite, Field(ge=0, le=50)] | None = None
    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    response_format: str | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: str | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None

    @model_validator(mode="after")
    def _asks_only_for_what_is_offered(self) -> Self:
        if self.response_format not in (None, "b64_json"):
            raise Unsupported("response_format", "only response_format 'b64_json' is offered")
        if self.background not in (None, "auto", "opaque"):
            raise Unsupported("background", "only an opaque background is offered")
        return self


class ImageGenerationRequest(_ImageRequest):
    """``POST /v1/images/generations``."""


class ImageEditRequest(_ImageRequest):
    """``POST /v1/images/edits`` as JSON; multipart forms are turned into it by the gateway.

    ``strength``: 0 gives the original back, 1 redraws it wholly.
    """

    image: Images
    strength: Annotated[Finite, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _has_one_image_and_no_mask(self) -> Self:
        if len(self.image) > 1:
            raise Unsupported("image", f"the model edits one image; {len(self.image)} were sent")
        if (self.model_extra or {}).get("mask"):
            raise Unsupported("mask", "masks are not offered by this version")
        return self


class ImageData(BaseModel):
    b64_json: str
    revised_prompt: str


class InputTokenDetails(BaseModel):
    image_tokens: int
    text_tokens: int


class ImageUsage(BaseModel):
    """``latency``: seconds of work. Tokens: prompt tokens in, 16 x 16 pixel patches in and out."""

    latency: float
    seed: int
    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    total_tokens: int


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageData]
    output_format: str
    size: str
    model: str
    usage: ImageUsage


# --- analysis ------------------------------------------------------------------------------------


class AnalyzeRequest(Request):
    """``POST /v1/vision/analyze``."""

    image: str
    task: str = DEFAULT_TASK
    prompt: Prompt | None = None
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_ANALYZE_TOKENS
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    detail: Detail | None = None
    max_pixels: MaxPixels | None = None

    @model_validator(mode="after")
    def _has_a_prompt_exactly_when_custom(self) -> Self:
        task = TASKS.get(self.task)
        if task is None:
            raise Faulty("task", f"unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if task.prompt is None and self.prompt is None:
            raise Faulty("prompt", f"is required for the task {self.task!r}")
        if task.prompt is not None and self.prompt is not None:
            raise Faulty("prompt", "is only for the task 'custom'")
        return self

    @property
    def question(self) -> str:
        return TASKS[self.task].prompt or self.prompt or ""


class AnalyzeUsage(BaseModel):
    """``latency``: seconds of work."""

    latency: float
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnalyzeResponse(BaseModel):
    task: str
    result: str
    objects: list[str] | None = None
    created: int
    model: str
    usage: AnalyzeUsage


# --- models --------------------------------------------------------------------------------------


class ModelObject(BaseModel):
    """``created`` is when the gateway's model list was made, and stable while it runs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vision-insight"
    kind: str
    path: str
    names: list[str]
    capabilities: list[str]
    memory_gb: float
    state: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class TaskObject(BaseModel):
    id: str
    object: Literal["vision.task"] = "vision.task"
    description: str
    prompt: str | None


class TaskList(BaseModel):
    """``models``: for each model that analyzes, the tasks that it does."""

    object: Literal["list"] = "list"
    default: str
    data: list[TaskObject]
    models: dict[str, list[str]]
