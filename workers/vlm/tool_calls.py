"""Tools as text: describes them to the model and parses its calls. Pure.

Rules: the format is Qwen's (from Hermes): ``<tools>`` in the system text, ``<tool_call>`` around each
call, ``<tool_response>`` around each result. It is used for every model, whatever its chat template
does, so the parser matches the description. Invalid calls (no JSON, unknown function) stay text. A
partial tag is held back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workers.engine import Part, Turn

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"
TAGS = (OPEN, CLOSE, _RESULT, _RESULT_END)  # written into the texts of turns
_DEFAULT_SYSTEM = "You are a helpful assistant."
_HEAD = re.compile(r'\s*\{"name": "([^"]*)", "arguments": ')
_TAIL = "}\n" + CLOSE


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call. ``arguments`` is JSON text, as in OpenAI's API."""

    name: str
    arguments: str


# --- writing -------------------------------------------------------------------------------------


def with_tools(turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> tuple[Turn, ...]:
    """*turns* with *tools* (OpenAI objects) described at the end of the first system text."""
    if not tools:
        return tuple(turns)
    listed = "\n".join(_json(tool) for tool in tools)
    section = (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{listed}"
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments"
        f" within {OPEN}{CLOSE} XML tags:\n{OPEN}\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n'
        f"{CLOSE}"
    )
    first, rest = turns[0], turns[1:]
    if first.role != "system":
        return (Turn("system", (_DEFAULT_SYSTEM + section,)), *turns)
    *before, last = first.parts or ("",)
    parts = (*before, last + section) if isinstance(last, str) else (*before, last, section)
    return (Turn("system", parts), *rest)


def call_text(calls: Iterable[ToolCall]) -> str:
    """*calls* in the form that the model writes."""
    return "\n".join(
        f'{OPEN}\n{{"name": {json.dumps(call.name)}, "arguments": {_as_json(call.arguments)}}}\n{CLOSE}'
        for call in calls
    )


def result_parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """A tool result, for a user message."""
    return (f"{_RESULT}\n", *parts, f"\n{_RESULT_END}")


def _as_json(arguments: str) -> str:
    try:
        json.loads(arguments)
    except ValueError:
        return _json(arguments)
    return arguments


def _json(value: Any) -> str:
    """Readable JSON. An unpaired surrogate, which UTF-8 cannot encode, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


# --- parsing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """Content of the message."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of call *index*."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of call *index*'s arguments, which are JSON text."""

    index: int
    text: str


Piece = Text | CallStart | CallArguments


class CallParser:
    """Turns the text of a completion into pieces. However the text is split, they are the same in
    total.

    *names*: the known functions. *forced*: a grammar restricts the text to calls, so arguments can be
    passed on immediately. Otherwise a call is emitted once it is complete and valid.
    """

    def __init__(self, names: Iterable[str], *, forced: bool = False) -> None:
        self._names = frozenset(names)
        self._forced = forced
        self._held = ""
        self._space = ""  # the white space before the current call
        self._inside = False
        self._arguing = False
        self.calls = 0

    def push(self, text: str) -> list[Piece]:
        self._held += text
        return [*self._pieces()]

    def finish(self) -> list[Piece]:
        """The held text: a call without its end tag, or text that looked like the beginning of a
        call."""
        rest, self._held = self._held, ""
        if self._arguing:
            return [CallArguments(self.calls - 1, rest)] if rest else []
        if self._inside:
            if call := self._call(rest):
                return self._pieces_of(call)
            rest = self._space + OPEN + rest
        elif self.calls and not rest.strip():
            return []
        return [Text(rest)] if rest else []

    def _pieces(self) -> Iterator[Piece]:
        while True:
            known = len(self._held), self._inside, self._arguing
            if self._arguing:
                yield from self._arguments()
            elif self._inside:
                yield from self._head() if self._forced else self._whole()
            else:
                yield from self._text()
            if (len(self._held), self._inside, self._arguing) == known:
                return

    def _text(self) -> Iterator[Piece]:
        at = self._held.find(OPEN)
        self._inside = at >= 0
        if at < 0:
            at = len(self._held) - _overlap(self._held, OPEN)
        shown = self._held[:at].rstrip()
        if self._inside:
            self._space = self._held[len(shown) : at]
            self._held = self._held[at + len(OPEN) :]
        else:
            self._held = self._held[len(shown) :]
        if shown:
            yield Text(shown)

    def _whole(self) -> Iterator[Piece]:
        """A call up to its end tag, or up to the next call: some models forget the tag."""
        for match in re.finditer(f"{CLOSE}|{OPEN}", self._held):
            body = self._held[: match.start()]
            call = self._call(body)
            if call is None and _in_string(body):
                continue
            end = match.end() if match[0] == CLOSE else match.start()
            taken, self._held = self._held[:end], self._held[end:]
            self._inside = False
            if call is None:
                yield Text(self._space + OPEN + taken)
            else:
                yield from self._pieces_of(call)
            return

    def _call(self, body: str) -> ToolCall | None:
        try:
            parsed = json.loads(body, parse_constant=_refuse)
            name, arguments = parsed["name"], parsed.get("arguments", {})
            if isinstance(arguments, str):
                arguments = json.loads(arguments, parse_constant=_refuse)
            if name not in self._names or not isinstance(arguments, dict):
                return None
            return ToolCall(name, _json(arguments))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None

    def _pieces_of(self, call: ToolCall) -> list[Piece]:
        self.calls += 1
        return [CallStart(self.calls - 1, call.name), CallArguments(self.calls - 1, call.arguments)]

    def _head(self) -> Iterator[Piece]:
        if match := _HEAD.match(self._held):
            self._held = self._held[match.end() :]
            self._arguing = True
            self.calls += 1
            yield CallStart(self.calls - 1, match[1])

    def _arguments(self) -> Iterator[Piece]:
        at = self._held.find(_TAIL)
        ended = at >= 0
        if not ended:
            at = len(self._held) - _overlap(self._held, _TAIL)
        shown, self._held = self._held[:at], self._held[at:]
        if ended:
            self._held = self._held[len(_TAIL) :]
            self._arguing = self._inside = False
        if shown:
            yield CallArguments(self.calls - 1, shown)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of *text* that begins *tag*."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


def _in_string(text: str) -> bool:
    """Whether *text*, the beginning of JSON, ends inside a string."""
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', text)) % 2 == 1
