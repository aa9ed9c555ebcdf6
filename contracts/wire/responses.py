"""Responses API requests: input items, tools, text format.

Rules: those of ``contracts.wire``. Responses are not stored, so references to stored ones are refused.
``gateway.responses`` converts a request to a chat completion; only checks that chat completions lack
are here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from contracts.wire import Faulty, Request, RequestPart, Unsupported
from contracts.wire.chat import MAX_TOOLS, MaxTokens, Name, Schema, Temperature, TopLogprobs, TopP

LOGPROBS = "message.output_text.logprobs"  # in ``include``
_NOT_STORED = "responses are not stored; send the whole conversation as input"


def _type_of(value: Any) -> str | None:
    """Read before validation, because unsupported types have fields of other kinds."""
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _require(model: BaseModel, fields: tuple[str, ...], where: str) -> None:
    for field in fields:
        if getattr(model, field) is None:
            raise Faulty(field, f"is required in {where}")


# --- input ---------------------------------------------------------------------------------------


def _as_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


# The required fields of each part type.
_PARTS = {
    "input_text": ("text",),
    "output_text": ("text",),
    "refusal": ("refusal",),
    "input_image": ("image_url",),
}


class InputPart(RequestPart):  # one class, so that errors name the field, not a branch of a union
    """Text or an image."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None  # a data URI, bare base64 or a URL
    detail: Literal["low", "high", "auto", "original"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_offered(cls, value: Any) -> Any:
        kind = _type_of(value)
        if kind is not None and kind not in _PARTS:
            raise Unsupported("type", f"parts of type {kind!r} are not supported")
        if kind == "input_image" and value.get("image_url") is None and value.get("file_id"):
            raise Unsupported("file_id", "files are not supported: send the image in image_url")
        return value

    @model_validator(mode="after")
    def _has_the_fields_of_its_type(self) -> Self:
        _require(self, _PARTS[self.type], f"a part of type {self.type!r}")
        return self


Parts = Annotated[
    list[InputPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[InputPart])
]

# The required fields of each item type.
_ITEMS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


class InputItem(RequestPart):
    """A message, a function call, its result, or reasoning (accepted and ignored)."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    call_id: Annotated[str, Field(min_length=1)] | None = None
    name: Name | None = None
    arguments: str | None = None  # JSON text
    output: Parts | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_offered(cls, value: Any) -> Any:
        kind = _type_of(value)
        if kind == "item_reference":
            raise Unsupported(
                "type",
                "item references are not supported, because responses are not stored; send the items"
                " (SDKs do so with store: false)",
            )
        if kind is not None and kind not in _ITEMS:
            raise Unsupported("type", f"items of type {kind!r} are not supported")
        # Reasoning items have content of other types.
        return {"type": kind} if kind == "reasoning" else value

    @model_validator(mode="after")
    def _has_the_fields_of_its_type(self) -> Self:
        _require(self, _ITEMS[self.type], f"an item of type {self.type!r}")
        return self


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


# --- tools ---------------------------------------------------------------------------------------


class FunctionTool(RequestPart):
    type: str
    name: Name | None = None
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_a_function(cls, value: Any) -> Any:
        kind = _type_of(value)
        if kind is not None and kind != "function":
            raise Unsupported("type", f"tools of type {kind!r} are not supported, only functions")
        return value

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        _require(self, ("name",), "a function")
        return self


def _as_choice(value: Any) -> Any:
    """``"required"`` -> ``{"type": "required"}``. A union would name its branches in errors."""
    return {"type": value} if isinstance(value, str) else value


class ResponseToolChoice(RequestPart):
    """``none``, ``auto``, ``required``, or a function by its name."""

    type: str
    name: Name | None = None

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if self.type == "function" and self.name is None:
            raise Faulty("name", "is required")
        if self.type not in ("none", "auto", "required", "function"):
            raise Unsupported("type", f"a tool_choice of type {self.type!r} is not supported")
        return self


# --- text format ---------------------------------------------------------------------------------


class TextFormat(RequestPart):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Name | None = None
    description: str | None = None
    definition: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_the_schema_of_its_type(self) -> Self:
        if self.type == "json_schema":
            _require(self, ("name",), "a format of type 'json_schema'")
            if self.definition is None:
                raise Faulty("schema", "is required in a format of type 'json_schema'")
        return self


class TextConfig(RequestPart):
    """``verbosity`` is accepted and ignored."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


# --- the request ---------------------------------------------------------------------------------

_REFUSED = {
    "previous_response_id": _NOT_STORED,
    "conversation": _NOT_STORED,
    "prompt": "prompt templates are not stored; send instructions and input",
    "background": "responses are only sent while the request is open",
    "context_management": "the input is never truncated",
    "moderation": "there is no moderation",
    "n": "a request has one response; use /v1/chat/completions for n",
}


class ResponseRequest(Request):
    """A request for a response.

    Accepted and ignored: ``reasoning``, ``store``, ``truncation``, ``stream_options``,
    ``service_tier`` and other fields that only apply to OpenAI's models. Sampling fields of chat
    completions that OpenAI's Responses API lacks (``seed``, ``top_k``, ``stop`` and others) are
    supported.
    """

    input: Annotated[
        list[InputItem],
        BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]),
        Field(min_length=1),
    ]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    include: list[str] | None = None
    top_logprobs: TopLogprobs | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[
        ResponseToolChoice | None,
        BeforeValidator(
            _as_choice,
            json_schema_input_type=Literal["none", "auto", "required"] | ResponseToolChoice | None,
        ),
    ] = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _needs_only_supported_features(self) -> Self:
        for name, why in _REFUSED.items():
            if (self.model_extra or {}).get(name) not in (None, False, []):
                raise Unsupported(name, f"{name} is not supported: {why}")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())
