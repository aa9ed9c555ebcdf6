"""Parse requests, and turn validation errors into API errors.

Rules: JSON is parsed strictly (``"4"`` is not an integer), form fields leniently because they are text.
Unknown fields are accepted, because OpenAI adds new ones; known fields that are not supported are
refused rather than ignored. Errors name the field as OpenAI does:
``messages[0].content[1].image_url.url``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import InvalidRequest, UnsupportedParameter

MAX_SEED = 2**64 - 1


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _none_or_some(seconds: float) -> float:
    if -1 < seconds < 0:
        raise ValueError("at least 0 seconds, or -1 for no idle timeout")
    return seconds


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Seconds that the model stays loaded after the response; 0: unload at once, -1: no idle timeout.
KeepAlive = Annotated[Finite, Field(ge=-1), AfterValidator(_none_or_some)]
Prompt = Annotated[str, Field(min_length=1, max_length=32_000)]


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = None
    user: str | None = None
    keep_alive: KeepAlive | None = None  # None: the configured idle timeout; used by the manager


class RequestPart(BaseModel):
    """An object inside a request. Unknown fields are accepted."""

    model_config = ConfigDict(frozen=True, extra="allow")


Parsed = TypeVar("Parsed", bound=BaseModel)


def parse_json(cls: type[Parsed], body: bytes) -> Parsed:
    """Parse *body* as *cls*; raises ``InvalidRequest`` or ``UnsupportedParameter`` with the field."""
    return _translated(lambda: cls.model_validate_json(body, strict=True))


def parse_form(cls: type[Parsed], fields: dict[str, Any]) -> Parsed:
    """Parse form *fields* (text values) as *cls*; raises the same errors as ``parse_json``."""
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
        if isinstance(cause, Faulty):
            param = cause.param if not param else f"{param}.{cause.param}"
            if isinstance(cause, Unsupported):
                raise UnsupportedParameter(str(cause), param=param) from exc
            raise InvalidRequest(f"{param}: {cause}", param=param) from exc
        what = "is required" if problem["type"] == "missing" else problem["msg"]
        raise InvalidRequest(f"{param}: {what}" if param else what, param=param) from exc


def read_keep_alive(text: str) -> float:
    """Parse a ``KeepAlive`` from a header or query; raises ``InvalidRequest``."""
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


class Faulty(ValueError):
    """A field breaks a rule; *param* is relative to the model that raises this."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(Faulty):
    """The request uses something that this version does not support."""
