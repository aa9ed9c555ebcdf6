"""Turns a chat completion into a response object; common parts of all response states. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from contracts.errors import UpstreamError
from contracts.wire.completions import (
    ChatChoice,
    ChatCompletion,
    ChatUsage,
    ContentLogprob,
    FinishReason,
    TopLogprob,
)
from contracts.wire.response_object import (
    FunctionCall,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTopLogprob,
    ResponseFailure,
    ResponseObject,
    ResponseUsage,
)
from contracts.wire.responses import ResponseRequest, ResponseToolChoice

NewId = Callable[[str], str]  # returns a unique id with this prefix
Now = Callable[[], float]  # seconds since 1970


def new_response(request: ResponseRequest, id: str, created_at: int, model: str) -> ResponseObject:
    """The response to *request* before any output. It contains nothing of the input."""
    return ResponseObject(
        id=id,
        created_at=created_at,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        safety_identifier=request.safety_identifier,
        temperature=request.temperature,
        text=_text(request),
        tool_choice=_choice(request.tool_choice),
        tools=_tools(request),
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        user=request.user,
    )


def finished_response(
    response: ResponseObject,
    finish: FinishReason,
    output: list[OutputItem],
    usage: ChatUsage | None,
    now: Now,
) -> ResponseObject:
    """*response* with its *output*: completed, or incomplete because of the token limit."""
    cut = finish == "length"
    return response.model_copy(
        update={
            "status": "incomplete" if cut else "completed",
            "incomplete_details": IncompleteDetails() if cut else None,
            "completed_at": None if cut else int(now()),
            "output": output,
            "usage": None if usage is None else usage_of(usage),
        }
    )


def failed_response(
    response: ResponseObject, failure: ResponseFailure, output: list[OutputItem]
) -> ResponseObject:
    return response.model_copy(update={"status": "failed", "error": failure, "output": output})


def response_of(response: ResponseObject, completion: bytes, new_id: NewId, now: Now) -> bytes:
    """A worker's whole completion as *response*. Raises ``UpstreamError``."""
    try:
        completed = ChatCompletion.model_validate_json(completion)
        (choice,) = completed.choices
    except (ValidationError, ValueError) as exc:
        raise UpstreamError("the worker did not return a chat completion") from exc
    output = _output(choice, new_id)
    whole = finished_response(response, choice.finish_reason, output, completed.usage, now)
    return whole.model_dump_json().encode()


def _output(choice: ChatChoice, new_id: NewId) -> list[OutputItem]:
    """The message, then the calls. A token limit cuts off the last item."""
    message, output = choice.message, list[OutputItem]()
    calls = message.tool_calls or []
    cut: ItemStatus = "incomplete" if choice.finish_reason == "length" else "completed"
    if message.content or not calls:
        text = OutputText(
            text=message.content or "",
            logprobs=logprobs_of(choice.logprobs.content if choice.logprobs else ()),
        )
        status = "completed" if calls else cut
        output.append(OutputMessage(id=new_id("msg"), status=status, content=[text]))
    for at, call in enumerate(calls, 1):
        output.append(
            FunctionCall(
                id=new_id("fc"),
                status=cut if at == len(calls) else "completed",
                call_id=call.id,
                name=call.function.name,
                arguments=call.function.arguments,
            )
        )
    return output


def usage_of(usage: ChatUsage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=usage.prompt_tokens_details.cached_tokens
        ),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def logprobs_of(tokens: Iterable[ContentLogprob]) -> list[OutputLogprob]:
    return [
        OutputLogprob(
            **_chance(token),
            top_logprobs=[OutputTopLogprob(**_chance(other)) for other in token.top_logprobs],
        )
        for token in tokens
    ]


def _chance(token: TopLogprob) -> dict[str, Any]:
    # Optional in a chat completion, required in a response.
    data = list(token.token.encode()) if token.bytes is None else token.bytes
    return {"token": token.token, "bytes": data, "logprob": token.logprob}


# --- request fields that the response repeats ---------------------------------------------------


def _text(request: ResponseRequest) -> dict[str, Any]:
    text = request.text
    format = {"type": "text"}
    if text is not None and text.format is not None:
        format = text.format.model_dump(by_alias=True, exclude_none=True)
    return {"format": format, "verbosity": (text and text.verbosity) or "medium"}


def _choice(choice: ResponseToolChoice | None) -> str | dict[str, Any]:
    if choice is None:
        return "auto"
    return {"type": choice.type, "name": choice.name} if choice.name else choice.type


def _tools(request: ResponseRequest) -> list[dict[str, Any]]:
    fields = {"type", "name", "description", "parameters", "strict"}
    return [tool.model_dump(include=fields) for tool in request.tools or ()]
