"""The API's requests and answers in OpenAI's shapes: analysis, models; the rest from three modules.

Rules: those of ``contracts.wire``; the other tiers import from here.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire import (
    MAX_SEED,
    Faulty,
    Finite,
    KeepAlive,
    Prompt,
    Request,
    param_name,
    parse_form,
    parse_json,
    read_keep_alive,
)
from contracts.wire.chat import ChatRequest, Detail, MaxPixels, Message
from contracts.wire.completions import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    ChatUsage,
    PromptTokensDetails,
)
from contracts.wire.images import (
    ImageData,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageRequest,
    ImagesResponse,
    ImageStreamEvent,
    ImageUsage,
    InputTokenDetails,
    OutputTokenDetails,
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
    "ImageRequest",
    "ImageStreamEvent",
    "ImageUsage",
    "ImagesResponse",
    "InputTokenDetails",
    "KeepAlive",
    "Message",
    "ModelList",
    "ModelObject",
    "OutputTokenDetails",
    "TaskList",
    "TaskObject",
    "param_name",
    "parse_form",
    "parse_json",
    "read_keep_alive",
]

DEFAULT_ANALYZE_TOKENS = 512

# --- analysis ------------------------------------------------------------------------------------


class AnalyzeRequest(Request):
    """``POST /v1/vision/analyze``."""

    image: str
    task: Annotated[str, Field(json_schema_extra={"enum": [*TASKS]})] = DEFAULT_TASK
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
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class AnalyzeResponse(BaseModel):
    task: str
    result: str
    objects: list[str] | None = None
    created: int
    model: str
    usage: AnalyzeUsage


# --- models --------------------------------------------------------------------------------------


class ModelObject(BaseModel):
    """``created`` is when the gateway's model list was made, and stable while it runs.

    ``capabilities``: see ``contracts.capabilities``; ``default_for``: the routes that it serves when no
    model is asked for; ``revision``: of a Hugging Face repository; the last three are for image models.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vision-insight"
    kind: str
    path: str
    revision: str | None = None  # the commit that is loaded, else the one that is asked for
    names: list[str]
    capabilities: list[str]
    default_for: list[str] = []  # what an older gateway does not tell
    memory_gb: float
    state: str
    family: str | None = None
    max_images: int | None = None  # of an edit
    max_pixels: int | None = None  # of what is drawn


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
