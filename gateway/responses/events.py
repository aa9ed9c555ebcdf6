"""Turns the chunks of a streamed chat completion into the events of a streamed response. Pure.

Rules: bytes in, bytes out, wherever the bytes are cut. Items keep the model's order, and each is done
before the next is added. All deltas of a text together are the text that is done. Every failure ends
the stream with ``response.failed`` and then an ``error`` event, which OpenAI's SDKs raise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from contracts.errors import ApiError, ErrorBody, UpstreamError, WorkerFailed
from contracts.wire.completions import (
    ChatChunk,
    ChatUsage,
    DeltaFunction,
    DeltaToolCall,
    FinishReason,
)
from contracts.wire.response_object import (
    FailureCode,
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    ResponseFailure,
    ResponseObject,
)
from gateway import SOURCE
from gateway.param_names import ParamNames
from gateway.response_rewrite import error_in
from gateway.responses.response import NewId, Now, failed_response, finished_response, logprobs_of
from web.sse import Comment, EventReader, comment, event

# OpenAI's codes of failed responses, by error type.
_CODES: dict[str, FailureCode] = {
    "rate_limit_error": "rate_limit_exceeded",
    "invalid_request_error": "invalid_prompt",
}


_Item = TypeVar("_Item", "_Message", "_Call")


class _Unreadable(Exception):
    """The worker's stream is invalid."""


@dataclass(slots=True)
class _Message:
    """A message while its text grows."""

    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[OutputLogprob] = field(default_factory=list)

    def part(self) -> OutputText:
        return OutputText(text="".join(self.pieces), logprobs=self.logprobs)

    def item(self, status: ItemStatus) -> OutputItem:
        content = [] if status == "in_progress" else [self.part()]
        return OutputMessage(id=self.id, status=status, content=content)


@dataclass(slots=True)
class _Call:
    """A function call while its arguments grow. ``index``: its number among the chat's calls."""

    id: str
    call_id: str
    name: str
    index: int
    pieces: list[str] = field(default_factory=list)

    def item(self, status: ItemStatus) -> OutputItem:
        arguments = "".join(self.pieces)
        return FunctionCall(
            id=self.id, status=status, call_id=self.call_id, name=self.name, arguments=arguments
        )


class ResponseEvents:
    """A ``web.relay.EventRewrite`` that reports *response*, which has not begun."""

    def __init__(self, response: ResponseObject, names: ParamNames, new_id: NewId, now: Now) -> None:
        self._response = response
        self._names = names
        self._new_id = new_id
        self._now = now
        self._reader = EventReader()
        self._pending: list[bytes] = []  # events to send now
        self._events = 0
        self._output: list[OutputItem] = []  # finished items
        self._open: _Message | _Call | None = None  # the unfinished item
        self._finish: FinishReason | None = None
        self._usage: ChatUsage | None = None
        self._unreadable = False  # an event could not be parsed; an error that follows explains it
        self._over = False

    def feed(self, data: bytes) -> bytes:
        self._begin()
        for found in self._reader.feed(data):
            if isinstance(found, Comment):
                self._pending.append(comment(found.text))
            elif not self._over:
                self._handle(found.text)
        return self._take_pending()

    def end(self) -> bytes:
        return self.broken(WorkerFailed("the response broke off before it was complete").body(SOURCE))

    def broken(self, error: ErrorBody) -> bytes:
        if self._over:
            return b""
        self._begin()
        self._fail(error["error"])
        return self._take_pending()

    def _take_pending(self) -> bytes:
        pending, self._pending = b"".join(self._pending), []
        return pending

    # --- events of the chat ----------------------------------------------------------------------

    def _handle(self, data: str) -> None:
        try:
            if data == "[DONE]":
                self._complete()
            else:
                self._read(ChatChunk.model_validate_json(data))
        except ValidationError:
            if error := error_in(data):
                self._fail(error)
            else:
                self._unreadable = True
        except _Unreadable:
            self._fail(UpstreamError("the worker's stream is invalid").body(SOURCE)["error"])

    def _read(self, chunk: ChatChunk) -> None:
        if self._unreadable:
            raise _Unreadable
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            delta, tokens = choice.delta, choice.logprobs.content if choice.logprobs else []
            # Tokens may come without text: held back, or at the end. A call has no place for its own.
            late = delta.content is not None and tokens and not isinstance(self._open, _Call)
            if delta.content or late:
                self._add_text(delta.content or "", logprobs_of(tokens))
            for call in delta.tool_calls or ():
                self._call(call)
            if choice.finish_reason is not None:
                self._finished(choice.finish_reason)

    def _add_text(self, text: str, logprobs: list[OutputLogprob]) -> None:
        if not isinstance(self._open, _Message):
            self._open = self._add(_Message(self._new_id("msg")))
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        shown = [token.model_dump() for token in logprobs]
        self._emit_part("output_text.delta", delta=text, logprobs=shown)

    def _call(self, call: DeltaToolCall) -> None:
        function = call.function or DeltaFunction()
        if call.id is not None:
            if function.name is None:
                raise _Unreadable
            self._add(_Call(self._new_id("fc"), call.id, function.name, call.index))
        if not isinstance(self._open, _Call) or self._open.index != call.index:
            raise _Unreadable
        if function.arguments:
            self._open.pieces.append(function.arguments)
            self._emit_item("function_call_arguments.delta", delta=function.arguments)

    def _finished(self, reason: FinishReason) -> None:
        self._finish = reason
        if self._open is None and not self._output:
            self._add(_Message(self._new_id("msg")))
        self._close("incomplete" if reason == "length" else "completed")

    # --- items -----------------------------------------------------------------------------------

    def _add(self, new: _Item) -> _Item:
        self._close("completed")
        self._open = new
        item = new.item("in_progress").model_dump()
        self._emit("response.output_item.added", output_index=self._index, item=item)
        if isinstance(new, _Message):
            self._emit_part("content_part.added", part=new.part().model_dump())
        return new

    def _close(self, status: ItemStatus) -> None:
        """End the open item, if there is one."""
        if self._open is None:
            return
        done = self._open.item(status)
        if isinstance(done, OutputMessage):
            part = done.content[0].model_dump()
            fields = {"text": part["text"], "logprobs": part["logprobs"]}
            self._emit_part("output_text.done", **fields)
            self._emit_part("content_part.done", part=part)
        else:
            fields = {"name": done.name, "arguments": done.arguments}
            self._emit_item("function_call_arguments.done", **fields)
        item = done.model_dump()
        self._emit("response.output_item.done", output_index=self._index, item=item)
        self._output.append(done)
        self._open = None

    @property
    def _index(self) -> int:
        """The index of the open item."""
        return len(self._output)

    # --- the response ----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._events:
            self._emit_state("created", self._response)
            self._emit_state("in_progress", self._response)

    def _complete(self) -> None:
        if self._finish is None or self._unreadable:
            raise _Unreadable
        response = finished_response(self._response, self._finish, self._output, self._usage, self._now)
        self._emit_state(response.status, response)
        self._over = True

    def _fail(self, error: dict[str, Any]) -> None:
        # Fills in the fields that errors have, whichever tier made this one.
        error = self._names.error_object(ApiError(error["message"]).body(SOURCE)["error"] | error)
        output = [*self._output, *([self._open.item("incomplete")] if self._open else [])]
        failure = ResponseFailure(
            code=_CODES.get(error["type"], "server_error"),
            message=error["message"],
            type=error["type"],
            param=error["param"],
        )
        self._emit_state("failed", failed_response(self._response, failure, output))
        fields = {name: error[name] for name in ("code", "message", "param")}
        self._emit("error", **fields, error=error)
        self._over = True

    # --- events of the response ------------------------------------------------------------------

    def _emit_state(self, state: str, response: ResponseObject) -> None:
        self._emit(f"response.{state}", response=response.model_dump())

    def _emit_item(self, kind: str, **fields: Any) -> None:
        assert self._open is not None
        self._emit(f"response.{kind}", item_id=self._open.id, output_index=self._index, **fields)

    def _emit_part(self, kind: str, **fields: Any) -> None:
        self._emit_item(kind, content_index=0, **fields)

    def _emit(self, kind: str, **fields: Any) -> None:
        data = {"type": kind, "sequence_number": self._events, **fields}
        self._pending.append(event(data, name=kind))
        self._events += 1
