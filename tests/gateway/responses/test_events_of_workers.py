"""The worker's own streams as responses: independent of cuts, equal to the unstreamed response."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.responses.response import response_of
from tests.gateway.responses.given import OPENAI, counting_ids, now, read, response, rewriting
from workers.engine import ChatEvent, Delta, Finished, Prefilled, TokenLogprob, TopToken
from workers.serving.endpoint import Identity
from workers.vlm.completions import ChatChunks, Shape, chat_completion, chat_usage

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "고양이"}}\n</tool_call>'
WHO = Identity("chatcmpl-1", 1_700_000_000, "vlm-fast")


@st.composite
def chats(draw: st.DrawFn) -> list[ChatEvent]:
    """The events of a chat, as an engine yields them."""
    text = draw(
        st.sampled_from(["", "a red circle", "빨간 원 <tool", CALL, f"I look.\n{CALL}", CALL * 2])
    )
    size = draw(st.integers(1, 12))
    tokens = draw(st.booleans())
    events: list[ChatEvent] = [Prefilled(7)]
    for piece in (text[at : at + size] for at in range(0, len(text), size)):
        data = piece.encode()
        chance = TokenLogprob(1, data, -0.5, (TopToken(1, data, -0.5),))
        events.append(Delta(0, piece, logprobs=(chance,) if tokens else ()))
    finish: Any = draw(st.sampled_from(("stop", "length")))
    return [*events, Finished(0, finish, len(events))]


def shape() -> Shape:
    numbers = itertools.count()
    return Shape(WHO, lambda: f"call_{next(numbers)}", include_usage=True, names=frozenset({"look"}))


def streamed(events: list[ChatEvent]) -> bytes:
    chunks = ChatChunks(shape())
    return b"".join(map(chunks.of, events)) + chunks.end(chat_usage(events))


@given(events=chats(), data=st.data())
def test_the_result_does_not_depend_on_the_cuts(events: list[ChatEvent], data: st.DataObject) -> None:
    stream = streamed(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    ends = [*cuts, len(stream)]
    rewrite, whole = rewriting(), rewriting()
    pieces = [rewrite.feed(stream[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert b"".join(pieces) + rewrite.end() == whole.feed(stream) + whole.end()


@given(events=chats())
def test_all_deltas_together_are_the_final_text(events: list[ChatEvent]) -> None:
    rewrite = rewriting()
    made = read(rewrite.feed(streamed(events)) + rewrite.end())
    grown: dict[str, str] = {}
    for event in made:
        OPENAI.validate_python(event)
        if event["type"].endswith(".delta"):
            grown[event["item_id"]] = grown.get(event["item_id"], "") + event["delta"]
        elif event["type"] in ("response.output_text.done", "response.function_call_arguments.done"):
            done = event.get("text", event.get("arguments"))
            assert grown.get(event["item_id"], "") == done
    assert made[-1]["type"] in ("response.completed", "response.incomplete")


def essence(response: dict[str, Any]) -> dict[str, Any]:
    """Without ids, and with texts joined: a whole response does not show where a text was."""
    output = response["output"]
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    calls = [{**item, "id": ""} for item in output if item["type"] == "function_call"]
    return {**response, "output": [*calls, "".join(part["text"] for part in parts)]}


@given(events=chats())
def test_the_final_event_equals_the_response_without_streaming(events: list[ChatEvent]) -> None:
    rewrite = rewriting()
    final = read(rewrite.feed(streamed(events)) + rewrite.end())[-1]["response"]
    whole = json.loads(response_of(response(), chat_completion(shape(), events), counting_ids(), now))
    assert essence(final) == essence(whole)
