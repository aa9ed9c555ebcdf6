"""Chat completion requests: messages, tools, response format.

Rules: those of ``contracts.wire``. Only the position and depth of a JSON schema are checked here; the
worker checks whether it can be turned into a grammar.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    model_validator,
)

from contracts.wire import MAX_SEED, Faulty, Finite, Request, RequestPart, Unsupported, as_list

MIN_PIXELS = 28 * 28  # one image token of Qwen2.5-VL
MAX_TOOLS = 128
MAX_MESSAGES = 2048
MAX_DEPTH = 64  # of a JSON schema; the JSON parser itself stops at about 200 levels
_NAME = r"^[a-zA-Z0-9_-]{1,64}$"

Name = Annotated[str, Field(pattern=_NAME)]
Detail = Literal["low", "high", "auto"]
MaxPixels = Annotated[int, Field(ge=MIN_PIXELS)]
StopString = Annotated[str, Field(min_length=1)]
StopStrings = Annotated[
    list[StopString],
    BeforeValidator(as_list, json_schema_input_type=StopString | list[StopString]),
    Field(max_length=16),
]
MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[Finite, Field(ge=0, le=2)]
TopP = Annotated[Finite, Field(gt=0, le=1)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]


def _not_too_deep(schema: dict[str, Any]) -> dict[str, Any]:
    """Limit the depth, because the grammar compiler recurses into the schema."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return schema
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


Schema = Annotated[dict[str, Any], AfterValidator(_not_too_deep)]


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


# --- messages ------------------------------------------------------------------------------------


class ImageUrl(RequestPart):
    """An image: a data URI, base64 or a URL. ``detail`` and ``max_pixels`` limit its tokens."""

    url: str
    detail: Detail | None = None
    max_pixels: MaxPixels | None = None


class ContentPart(RequestPart):  # one class, so that errors name the field, not a branch of a union
    """Text or an image."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: ImageUrl | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _has_the_field_of_its_type(self) -> Self:
        if getattr(self, self.type) is None:
            raise Faulty(self.type, f"is required in a part of type {self.type!r}")
        return self

    @property
    def words(self) -> str:
        return self.text or self.refusal or ""


class CalledFunction(RequestPart):
    """A call: the function's name, and its arguments as JSON text."""

    name: Name
    arguments: str


class MessageToolCall(RequestPart):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(RequestPart):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        list[ContentPart] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart] | None),
    ] = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _has_the_fields_of_its_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise Faulty("tool_calls", "is only allowed in assistant messages")
        if self.content is None and not self.tool_calls:
            raise Faulty("content", "is required")
        if self.role == "tool" and not self.tool_call_id:
            raise Faulty("tool_call_id", "is required in a message of role 'tool'")
        return self

    @property
    def parts(self) -> list[ContentPart]:
        return self.content or []

    @property
    def words(self) -> str:
        return " ".join(part.words for part in self.parts if part.words)


# --- tools ---------------------------------------------------------------------------------------


class Function(RequestPart):
    """A function that the model may call. ``parameters`` is the JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _takes_named_arguments(self) -> Self:
        if (self.parameters or {}).get("type", "object") != "object":
            raise Faulty("parameters.type", "expected 'object'")
        return self


class Tool(RequestPart):
    type: Annotated[str, Field(json_schema_extra={"enum": ["function"]})]
    function: Function | None = None

    @model_validator(mode="after")
    def _is_a_function(self) -> Self:
        if self.type != "function":
            raise Unsupported("type", f"tools of type {self.type!r} are not supported, only functions")
        if self.function is None:
            raise Faulty("function", "is required")
        return self


class NamedFunction(RequestPart):
    name: Name


def _as_choice(value: Any) -> Any:
    """``"required"`` -> ``{"type": "required"}``. A union would name its branches in errors."""
    return {"type": value} if isinstance(value, str) else value


_CHOICES: list[JsonValue] = ["none", "auto", "required", "function"]


class ToolChoice(RequestPart):
    """``none``, ``auto``, ``required``, or a function by its name."""

    type: Annotated[str, Field(json_schema_extra={"enum": _CHOICES})]
    function: NamedFunction | None = None

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if self.type == "function" and self.function is None:
            raise Faulty("function", "is required")
        if self.type == "allowed_tools":
            raise Unsupported("type", "a tool_choice of type 'allowed_tools' is not supported")
        if self.type not in _CHOICES:
            raise Faulty("type", "expected 'none', 'auto', 'required' or a function")
        return self


# --- response format -----------------------------------------------------------------------------


class JsonSchema(RequestPart):
    name: Name
    description: str | None = None
    definition: Annotated[Schema | None, Field(alias="schema")] = None  # None: any object
    strict: bool | None = None


class ResponseFormat(RequestPart):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_the_schema_of_its_type(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise Faulty("json_schema", "is required in a format of type 'json_schema'")
        return self


class StreamOptions(RequestPart):
    include_usage: bool | None = None


# --- the request ---------------------------------------------------------------------------------


class ChatRequest(Request):
    """A chat completion request.

    Absent sampling fields have the defaults of the checkpoint, or OpenAI's.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    stop: StopStrings | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    logit_bias: dict[str, Annotated[Finite, Field(ge=-100, le=100)]] | None = None  # by token id
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[
        ToolChoice | None,
        BeforeValidator(
            _as_choice,
            json_schema_input_type=Literal["none", "auto", "required"] | ToolChoice | None,
        ),
    ] = None
    parallel_tool_calls: bool | None = None
    max_pixels: MaxPixels | None = None  # of each image

    @model_validator(mode="after")
    def _needs_only_supported_features(self) -> Self:
        extra = self.model_extra or {}
        if extra.get("functions") or extra.get("function_call"):
            name = "functions" if extra.get("functions") else "function_call"
            raise Unsupported(name, "functions are supported as tools only")
        if extra.get("audio") or extra.get("modalities") not in (None, [], ["text"]):
            name = "audio" if extra.get("audio") else "modalities"
            raise Unsupported(name, "only text output is supported")
        if extra.get("web_search_options") is not None:
            raise Unsupported("web_search_options", "web search is not supported")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise Faulty("top_logprobs", "requires logprobs: true")
        for token in self.logit_bias or ():
            if re.fullmatch(r"[0-9]{1,9}", token) is None:
                raise Faulty(f"logit_bias.{token}", "expected a token id")
        names = [tool.function.name for tool in self.tools or () if tool.function]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise Faulty(f"tools[{at}].function.name", f"duplicate function {name!r}")
        choice = self.tool_choice
        if choice is not None and choice.type in ("required", "function") and not names:
            raise Faulty("tool_choice", "requires tools")
        if choice is not None and choice.function and choice.function.name not in names:
            raise Faulty("tool_choice.function.name", f"tools has no function {choice.function.name!r}")
        return self

    @model_validator(mode="after")
    def _results_belong_to_calls(self) -> Self:
        called: set[str] = set()
        for at, message in enumerate(self.messages):
            called |= {call.id for call in message.tool_calls or ()}
            if message.role == "tool" and message.tool_call_id not in called:
                raise Faulty(
                    f"messages[{at}].tool_call_id", "no earlier assistant message has this call"
                )
        return self
