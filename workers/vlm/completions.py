"""Turns a chat job's events into OpenAI's chat completion, whole or in chunks. Pure.

Rules: both forms consist of the same pieces, so the chunks together are the whole completion. Random
ids are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from contracts.wire.chat import ChatRequest
from contracts.wire.completions import (
    AnswerFunction,
    AnswerToolCall,
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ChatUsage,
    ChoiceLogprobs,
    ContentLogprob,
    FinishReason,
    PromptTokensDetails,
    TopLogprob,
)
from web import sse
from workers.engine import (
    ChatEvent,
    Delta,
    Finished,
    Prefilled,
    TokenLogprob,
    TopToken,
)
from workers.serving.endpoint import Identity
from workers.vlm.jobs import must_call, offered
from workers.vlm.tool_calls import CallArguments, CallParser, CallStart, Piece, Text

_MIN_LOGPROB = -9999.0  # OpenAI's value for a logprob that JSON has no number for


@dataclass(frozen=True, slots=True)
class Shape:
    """The facts that all completions of one request share.

    *names*: the functions that may be called. *forced*: one of them must be called. *new_id* returns a
    unique id for a call.
    """

    who: Identity
    new_id: Callable[[], str]
    n: int = 1
    include_usage: bool = False
    logprobs: bool = False
    names: frozenset[str] = frozenset()
    forced: bool = False

    @classmethod
    def of(cls, request: ChatRequest, who: Identity, new_id: Callable[[], str]) -> Shape:
        options = request.stream_options
        return cls(
            who,
            new_id,
            n=request.n or 1,
            include_usage=bool(options and options.include_usage),
            logprobs=bool(request.logprobs),
            names=frozenset(tool.function.name for tool in offered(request) if tool.function),
            forced=must_call(request),
        )

    def new_choice(self) -> _Choice:
        return _Choice(CallParser(self.names, forced=self.forced) if self.names else None)


class _Choice:
    """One completion in progress."""

    def __init__(self, parser: CallParser | None) -> None:
        self._parser = parser

    def pieces(self, text: str) -> list[Piece]:
        if self._parser is None:
            return [Text(text)] if text else []
        return self._parser.push(text)

    def rest(self) -> list[Piece]:
        return [] if self._parser is None else self._parser.finish()

    def finish_reason(self, event: Finished) -> FinishReason:
        called = self._parser is not None and self._parser.calls > 0
        return "tool_calls" if called and event.finish_reason == "stop" else event.finish_reason


def chat_completion(shape: Shape, events: list[ChatEvent]) -> bytes:
    choices = [_whole(shape, event, events) for event in events if isinstance(event, Finished)]
    who = shape.who
    return (
        ChatCompletion(
            id=who.id,
            created=who.created,
            model=who.model,
            choices=choices,
            usage=chat_usage(events),
        )
        .model_dump_json()
        .encode()
    )


def _whole(shape: Shape, end: Finished, events: list[ChatEvent]) -> ChatChoice:
    deltas = [e for e in events if isinstance(e, Delta) and e.index == end.index]
    choice = shape.new_choice()
    pieces = [*choice.pieces("".join(delta.text for delta in deltas)), *choice.rest()]
    content = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    calls = [
        AnswerToolCall(
            id=shape.new_id(),
            function=AnswerFunction(
                name=call.name,
                arguments="".join(
                    piece.text
                    for piece in pieces
                    if isinstance(piece, CallArguments) and piece.index == call.index
                ),
            ),
        )
        for call in pieces
        if isinstance(call, CallStart)
    ]
    logprobs = None
    if shape.logprobs:
        logprobs = shown_logprobs(token for delta in deltas for token in delta.logprobs)
    return ChatChoice(
        index=end.index,
        message=ChatMessage(
            content=content if content or not calls else None, tool_calls=calls or None
        ),
        finish_reason=choice.finish_reason(end),
        logprobs=logprobs,
    )


def shown_logprobs(tokens: Iterable[TokenLogprob]) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=[
            ContentLogprob(
                **_shown(token), top_logprobs=[TopLogprob(**_shown(other)) for other in token.top]
            )
            for token in tokens
        ]
    )


def _shown(token: TokenLogprob | TopToken) -> dict[str, Any]:
    return {
        "token": token.data.decode("utf-8", errors="replace"),
        "logprob": max(token.logprob, _MIN_LOGPROB),
        "bytes": list(token.data),
    }


@dataclass(slots=True)
class ChatChunks:
    """The events of a chat job as server-sent events."""

    shape: Shape
    _choices: list[_Choice] = field(init=False)
    _tokens: list[list[TokenLogprob]] = field(init=False)  # per choice, not sent yet

    DONE = b"data: [DONE]\n\n"

    def __post_init__(self) -> None:
        self._choices = [self.shape.new_choice() for _ in range(self.shape.n)]
        self._tokens = [[] for _ in range(self.shape.n)]

    def of(self, event: ChatEvent) -> bytes:
        if isinstance(event, Prefilled):
            first = {"role": "assistant", "content": ""}
            return b"".join(self._choice(index, first) for index in range(self.shape.n))
        choice = self._choices[event.index]
        if isinstance(event, Delta):
            self._tokens[event.index] += event.logprobs
            return self._chunks(event.index, choice.pieces(event.text))
        last = self._chunks(event.index, choice.rest())
        if self._tokens[event.index]:
            last += self._choice(event.index, {"content": ""})
        return last + self._choice(event.index, {}, choice.finish_reason(event))

    def end(self, usage: ChatUsage) -> bytes:
        last = self._event([], usage.model_dump()) if self.shape.include_usage else b""
        return last + self.DONE

    def _chunks(self, index: int, pieces: list[Piece]) -> bytes:
        return b"".join(self._choice(index, self._delta(piece)) for piece in pieces)

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, Text):
            return {"content": piece.text}
        call: dict[str, Any] = {"index": piece.index}
        if isinstance(piece, CallStart):
            call |= {"id": self.shape.new_id(), "type": "function"}
            call["function"] = {"name": piece.name, "arguments": ""}
        else:
            call["function"] = {"arguments": piece.text}
        return {"tool_calls": [call]}

    def _choice(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        tokens, self._tokens[index] = self._tokens[index], []
        logprobs = shown_logprobs(tokens).model_dump() if tokens else None
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._event([choice], None)

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        who = self.shape.who
        chunk: dict[str, Any] = {
            "id": who.id,
            "object": "chat.completion.chunk",
            "created": who.created,
            "model": who.model,
            "choices": choices,
        }
        if self.shape.include_usage:
            chunk["usage"] = usage
        return sse.event(chunk)


def text_of(events: Iterable[ChatEvent], index: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta) and e.index == index)


def chat_usage(events: Iterable[ChatEvent]) -> ChatUsage:
    """The prompt counts once. Its cached tokens are those that all *n* choices found in the cache."""
    events = list(events)
    prompt = sum(e.prompt_tokens for e in events if isinstance(e, Prefilled))
    ends = [e for e in events if isinstance(e, Finished)]
    completion = sum(e.completion_tokens for e in ends)
    return ChatUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=min((e.cached_tokens for e in ends), default=0)
        ),
    )
