"""A request for a chat completion on the wire: messages, tools, the form of the answer.

Rules are those of ``contracts.wire``. Whether a JSON schema can be used only the worker knows; here its
place and shape are checked.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from contracts.wire import MAX_SEED, Faulty, Finite, Request, Unsupported, as_list

MIN_PIXELS = 28 * 28  # of an image: one token of Qwen2.5-VL
MAX_TOOLS = 128
MAX_MESSAGES = 2048
MAX_DEPTH = 64  # of a JSON schema; the parser takes no more than some 200 levels of anything
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
    """What makes a grammar of a schema goes down into it by calling itself."""
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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


# --- messages ------------------------------------------------------------------------------------


class ImageUrl(_Part):
    """``url`` is a data URI or bare base64 text; ``detail`` and ``max_pixels`` bound its tokens."""

    url: str
    detail: Detail | None = None
    max_pixels: MaxPixels | None = None


class ContentPart(_Part):
    """Text, or an image. One class, so that errors name the field and not a branch of a union."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: ImageUrl | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _has_what_its_type_says(self) -> Self:
        if getattr(self, self.type) is None:
            raise Faulty(self.type, f"is required in a part of type {self.type!r}")
        return self

    @property
    def words(self) -> str:
        return self.text or self.refusal or ""


class CalledFunction(_Part):
    """``arguments``: JSON text, as the model wrote it."""

    name: Name
    arguments: str


class MessageToolCall(_Part):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        list[ContentPart] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart] | None),
    ] = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _has_what_its_role_says(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise Faulty("tool_calls", "only an assistant calls tools")
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


class Function(_Part):
    """``parameters``: the JSON schema of its arguments; None: it takes none."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _takes_named_arguments(self) -> Self:
        if (self.parameters or {}).get("type", "object") != "object":
            raise Faulty("parameters.type", "expected 'object': arguments have names")
        return self


class Tool(_Part):
    type: Annotated[str, Field(json_schema_extra={"enum": ["function"]})]
    function: Function | None = None

    @model_validator(mode="after")
    def _is_a_function(self) -> Self:
        if self.type != "function":
            raise Unsupported(
                "type", f"tools of type {self.type!r} are not offered: only functions are"
            )
        if self.function is None:
            raise Faulty("function", "is required")
        return self


class NamedFunction(_Part):
    name: Name


def _as_choice(value: Any) -> Any:
    """``"required"`` -> ``{"type": "required"}``: a union would name its branches in errors."""
    return {"type": value} if isinstance(value, str) else value


_CHOICES: list[JsonValue] = ["none", "auto", "required", "function"]


class ToolChoice(_Part):
    """``type``: none, auto, required, or function with the function's name."""

    type: Annotated[str, Field(json_schema_extra={"enum": _CHOICES})]
    function: NamedFunction | None = None

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if self.type == "function" and self.function is None:
            raise Faulty("function", "is required")
        if self.type == "allowed_tools":
            raise Unsupported("type", "a tool_choice of type 'allowed_tools' is not offered")
        if self.type not in _CHOICES:
            raise Faulty("type", "expected 'none', 'auto', 'required' or a function")
        return self


# --- forms of answers ----------------------------------------------------------------------------


class JsonSchema(_Part):
    name: Name
    description: str | None = None
    definition: Annotated[Schema | None, Field(alias="schema")] = None  # None: any object
    strict: bool | None = None


class ResponseFormat(_Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema_when_it_says_so(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise Faulty("json_schema", "is required for a format of type 'json_schema'")
        return self


class StreamOptions(_Part):
    include_usage: bool | None = None


# --- the request ---------------------------------------------------------------------------------


class ChatRequest(Request):
    """``POST /v1/chat/completions``. Sampling fields that are absent mean OpenAI's defaults."""

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
    def _asks_only_for_what_is_offered(self) -> Self:
        extra = self.model_extra or {}
        if extra.get("functions") or extra.get("function_call"):
            name = "functions" if extra.get("functions") else "function_call"
            raise Unsupported(name, "functions are offered as tools only")
        if extra.get("audio") or extra.get("modalities") not in (None, [], ["text"]):
            name = "audio" if extra.get("audio") else "modalities"
            raise Unsupported(name, "answers are text only")
        if extra.get("web_search_options") is not None:
            raise Unsupported("web_search_options", "web search is not offered")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise Faulty("top_logprobs", "needs logprobs: true")
        for token in self.logit_bias or ():
            if re.fullmatch(r"[0-9]{1,9}", token) is None:
                raise Faulty(f"logit_bias.{token}", "expected a token id")
        names = [tool.function.name for tool in self.tools or () if tool.function]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise Faulty(f"tools[{at}].function.name", f"there are two functions {name!r}")
        choice = self.tool_choice
        if choice is not None and choice.type in ("required", "function") and not names:
            raise Faulty("tool_choice", "needs tools")
        if choice is not None and choice.function and choice.function.name not in names:
            raise Faulty(
                "tool_choice.function.name", f"there is no function {choice.function.name!r} in tools"
            )
        return self

    @model_validator(mode="after")
    def _results_belong_to_calls(self) -> Self:
        called: set[str] = set()
        for at, message in enumerate(self.messages):
            called |= {call.id for call in message.tool_calls or ()}
            if message.role == "tool" and message.tool_call_id not in called:
                raise Faulty(
                    f"messages[{at}].tool_call_id", "no earlier message of the assistant has this call"
                )
        return self
