"""Requests and answers on the wire, in OpenAI's shapes (plus this project's own fields).

Rules: a request is parsed strictly (``"4"`` is no integer) from JSON, leniently from form fields, which
are text; unknown fields are tolerated, as OpenAI's are many and new ones appear; a field that is known
and not offered is refused rather than ignored. Errors name the field as OpenAI does:
``messages[0].content[1].image_url.url``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.tasks import DEFAULT_TASK, TASKS

MAX_SEED = 2**64 - 1
DEFAULT_ANALYZE_TOKENS = 512
DEFAULT_STRENGTH = 0.7


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _none_or_some(seconds: float) -> float:
    if -1 < seconds < 0:
        raise ValueError("at least 0 seconds, or -1 for no idle timeout")
    return seconds


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Seconds for which the model stays in memory after the answer; 0: not at all, -1: no idle timeout.
KeepAlive = Annotated[Finite, Field(ge=-1), AfterValidator(_none_or_some)]
Prompt = Annotated[str, Field(min_length=1, max_length=32_000)]
StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_as_list),
    Field(max_length=16),
]
Images = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = None
    user: str | None = None
    keep_alive: KeepAlive | None = None  # None: the configured idle timeout; the manager's matter


Parsed = TypeVar("Parsed", bound=BaseModel)


def parse_json(cls: type[Parsed], body: bytes) -> Parsed:
    """*body* as a *cls*; raises ``InvalidRequest`` or ``UnsupportedParameter`` naming the field."""
    return _translated(lambda: cls.model_validate_json(body, strict=True))


def parse_form(cls: type[Parsed], fields: dict[str, Any]) -> Parsed:
    """Form *fields* (text values) as a *cls*; errors as of ``parse_json``."""
    return _translated(lambda: cls.model_validate(fields, strict=False))


def _translated(parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        param = param_name(problem["loc"])
        if problem["type"] == "json_invalid":
            raise InvalidRequest(f"the body is not valid JSON: {problem['msg']}") from exc
        cause = (problem.get("ctx") or {}).get("error")
        if isinstance(cause, _Unsupported):
            raise UnsupportedParameter(str(cause), param=cause.param) from exc
        if isinstance(cause, _Faulty):
            param = cause.param if not param else f"{param}.{cause.param}"
            raise InvalidRequest(f"{param}: {cause}", param=param) from exc
        what = "is required" if problem["type"] == "missing" else problem["msg"]
        raise InvalidRequest(f"{param}: {what}" if param else what, param=param) from exc


def read_keep_alive(text: str) -> float:
    """*text*, of a header or a query, as a ``KeepAlive``; raises ``InvalidRequest``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or (seconds < 0 and seconds != -1):
        raise InvalidRequest(
            "keep_alive: expected a number of seconds, at least 0, or -1", param="keep_alive"
        )
    return seconds


def param_name(loc: tuple[int | str, ...]) -> str | None:
    """``("messages", 0, "content")`` -> ``messages[0].content``."""
    name = ""
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part
    return name or None


class _Faulty(ValueError):
    """A rule across fields is broken; *param* is relative to the model that raises it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class _Unsupported(_Faulty):
    """The request asks for something that this version does not offer."""


# --- chat ----------------------------------------------------------------------------------------


class ImageUrl(BaseModel):
    """``url`` is a data URI or bare base64 text."""

    model_config = ConfigDict(frozen=True, extra="allow")

    url: str
    detail: str | None = None


class ContentPart(BaseModel):
    """Text, or an image. One class, so that errors name the field and not a branch of a union."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _has_what_its_type_says(self) -> Self:
        if getattr(self, self.type) is None:
            raise _Faulty(self.type, f"is required in a part of type {self.type!r}")
        return self


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[ContentPart], BeforeValidator(_as_parts)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    include_usage: bool | None = None


class ChatRequest(_Request):
    """``POST /v1/chat/completions``. Sampling fields that are absent mean OpenAI's defaults."""

    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    stop: StopStrings | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None

    @model_validator(mode="after")
    def _asks_only_for_what_is_offered(self) -> Self:
        extra = self.model_extra or {}
        if extra.get("tools") and extra.get("tool_choice") != "none":
            raise _Unsupported("tools", "tools are not offered by this version")
        if extra.get("functions"):
            raise _Unsupported("functions", "functions are not offered by this version")
        if extra.get("logprobs"):
            raise _Unsupported("logprobs", "logprobs are not offered by this version")
        if extra.get("logit_bias"):
            raise _Unsupported("logit_bias", "logit_bias is not offered by this version")
        form = extra.get("response_format")
        if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
            raise _Unsupported("response_format", "only response_format {'type': 'text'} is offered")
        return self


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None


# --- images --------------------------------------------------------------------------------------


class _ImageRequest(_Request):
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
            raise _Unsupported("response_format", "only response_format 'b64_json' is offered")
        if self.background not in (None, "auto", "opaque"):
            raise _Unsupported("background", "only an opaque background is offered")
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
            raise _Unsupported("image", f"the model edits one image; {len(self.image)} were sent")
        if (self.model_extra or {}).get("mask"):
            raise _Unsupported("mask", "masks are not offered by this version")
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


class AnalyzeRequest(_Request):
    """``POST /v1/vision/analyze``."""

    image: str
    task: str = DEFAULT_TASK
    prompt: Prompt | None = None
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_ANALYZE_TOKENS
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None

    @model_validator(mode="after")
    def _has_a_prompt_exactly_when_custom(self) -> Self:
        task = TASKS.get(self.task)
        if task is None:
            raise _Faulty("task", f"unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if task.prompt is None and self.prompt is None:
            raise _Faulty("prompt", f"is required for the task {self.task!r}")
        if task.prompt is not None and self.prompt is not None:
            raise _Faulty("prompt", "is only for the task 'custom'")
        return self

    @property
    def question(self) -> str:
        return TASKS[self.task].prompt or self.prompt or ""


class AnalyzeUsage(ChatUsage):
    """``latency``: seconds of work."""

    latency: float


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
    object: Literal["list"] = "list"
    default: str
    data: list[TaskObject]
