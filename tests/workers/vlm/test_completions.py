"""Chat completions in OpenAI's form, whole and in chunks: text, calls, logprobs, usage."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from contracts.wire.chat import ChatRequest
from contracts.wire.completions import ChatChunk, ChatCompletion
from workers.engine import ChatEvent, Delta, Finished, Prefilled, TokenLogprob, TopToken
from workers.serving.endpoint import Identity
from workers.vlm.completions import ChatChunks, Shape, chat_completion, chat_usage

WHO = Identity("chatcmpl-1", 1_700_000_000, "vlm-fast")
EVENTS: list[ChatEvent] = [
    Prefilled(7),
    Delta(0, "a"),
    Delta(0, " b"),
    Finished(0, "stop", 3, cached_tokens=6),
    Delta(1, "c"),
    Finished(1, "length", 1, cached_tokens=4),
]
CALL = '<tool_call>\n{"name": "clock", "arguments": {"zone": "KST"}}\n</tool_call>'
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def shape(**fields: Any) -> Shape:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})
    ids: Iterator[int] = itertools.count()
    return Shape.of(request, WHO, lambda: f"call_{next(ids)}")


def whole(events: list[ChatEvent], **fields: Any) -> dict[str, Any]:
    raw = chat_completion(shape(**fields), events)
    ChatCompletion.model_validate_json(raw)
    answer: dict[str, Any] = json.loads(raw)
    return answer


def chunks(events: list[ChatEvent], **fields: Any) -> list[dict[str, Any]]:
    made = ChatChunks(shape(**fields))
    raw = b"".join(made.of(event) for event in events) + made.end(chat_usage(events))
    *blocks, done, nothing = raw.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    parsed: list[dict[str, Any]] = [json.loads(block.removeprefix("data: ")) for block in blocks]
    for chunk in parsed:
        ChatChunk.model_validate(chunk)
    return parsed


def assembled(made: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The message, end and logprobs that a client assembles from the chunks of one choice."""
    text = ""
    calls: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] = []
    ends: list[str | None] = []
    for choice in (c for chunk in made for c in chunk["choices"] if c["index"] == index):
        delta = choice["delta"]
        text += delta.get("content") or ""
        for part in delta.get("tool_calls", []):
            if "id" in part:
                assert part["index"] == len(calls)
                calls.append({"id": part["id"], "type": part["type"], **part["function"]})
            else:
                calls[part["index"]]["arguments"] += part["function"]["arguments"]
        logprobs += (choice["logprobs"] or {"content": []})["content"]
        ends.append(choice["finish_reason"])
    assert ends[:-1] == [None] * (len(ends) - 1)
    return {"text": text, "calls": calls, "logprobs": logprobs, "end": ends[-1]}


class TestText:
    def test_a_completion_has_its_choices_and_correct_counts(self) -> None:
        answer = whole(EVENTS)
        assert [c["message"]["content"] for c in answer["choices"]] == ["a b", "c"]
        assert [c["finish_reason"] for c in answer["choices"]] == ["stop", "length"]
        assert answer["choices"][0]["logprobs"] is None
        assert "tool_calls" not in answer["choices"][0]["message"]
        assert answer["usage"] == {
            "prompt_tokens": 7,
            "completion_tokens": 4,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 4},
        }

    def test_the_chunks_together_are_the_completion(self) -> None:
        made = chunks(EVENTS, n=2)
        assert [assembled(made, i)["text"] for i in (0, 1)] == ["a b", "c"]
        assert [assembled(made, i)["end"] for i in (0, 1)] == ["stop", "length"]
        assert [c["choices"][0]["delta"] for c in made[:2]] == [
            {"role": "assistant", "content": ""}
        ] * 2
        assert all("usage" not in chunk for chunk in made)

    def test_requested_usage_is_in_a_last_chunk_without_choices(self) -> None:
        *before, last = chunks(EVENTS, n=2, stream_options={"include_usage": True})
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 11)
        assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
        assert all(chunk["usage"] is None for chunk in before)

    def test_a_call_is_plain_text_if_no_tools_were_sent(self) -> None:
        events: list[ChatEvent] = [Prefilled(1), Delta(0, CALL), Finished(0, "stop", 9)]
        (choice,) = whole(events)["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
        assert assembled(chunks(events))["text"] == CALL

    def test_a_completion_without_text_has_empty_content(self) -> None:
        events: list[ChatEvent] = [Prefilled(1), Finished(0, "stop", 1)]
        assert whole(events)["choices"][0]["message"]["content"] == ""


class TestCalls:
    def events(self, text: str, end: Any = "stop", size: int = 3) -> list[ChatEvent]:
        deltas = [Delta(0, text[at : at + size]) for at in range(0, len(text), size)]
        return [Prefilled(5), *deltas, Finished(0, end, len(deltas) + 1)]

    @pytest.mark.parametrize("choice", ["auto", "required"])
    def test_a_call_is_the_same_whole_and_in_chunks(self, choice: str) -> None:
        events = self.events(CALL)
        (answer,) = whole(events, tools=[CLOCK], tool_choice=choice)["choices"]
        assert answer["finish_reason"] == "tool_calls"
        assert answer["message"]["content"] is None
        assert answer["message"]["tool_calls"] == [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "clock", "arguments": '{"zone": "KST"}'},
            }
        ]
        streamed = assembled(chunks(events, tools=[CLOCK], tool_choice=choice))
        assert (streamed["text"], streamed["end"]) == ("", "tool_calls")
        assert streamed["calls"] == [
            {"id": "call_0", "type": "function", "name": "clock", "arguments": '{"zone": "KST"}'}
        ]

    def test_two_calls_have_indices_and_ids_of_their_own(self) -> None:
        events = self.events(f"One moment.\n{CALL}\n{CALL}")
        (answer,) = whole(events, tools=[CLOCK])["choices"]
        assert answer["message"]["content"] == "One moment."
        assert [call["id"] for call in answer["message"]["tool_calls"]] == ["call_0", "call_1"]
        streamed = assembled(chunks(events, tools=[CLOCK]))
        assert (streamed["text"], len(streamed["calls"])) == ("One moment.", 2)

    def test_a_completion_that_is_cut_off_in_a_call_has_finish_reason_length(self) -> None:
        events = self.events(CALL[:55], "length")
        (answer,) = whole(events, tools=[CLOCK], tool_choice="required")["choices"]
        assert answer["finish_reason"] == "length"
        assert answer["message"]["tool_calls"][0]["function"]["arguments"].startswith('{"zone')

    def test_a_broken_call_stays_text(self) -> None:
        broken = CALL.replace("}}", "}")
        events = self.events(broken)
        (answer,) = whole(events, tools=[CLOCK])["choices"]
        assert (answer["message"]["content"], answer["finish_reason"]) == (broken, "stop")
        assert assembled(chunks(events, tools=[CLOCK]))["text"] == broken

    def test_text_without_a_call_is_kept(self) -> None:
        assert assembled(chunks(self.events("Just text. "), tools=[CLOCK]))["text"] == "Just text. "


class TestLogprobs:
    HALVES = (
        TokenLogprob(5, "한".encode()[:2], -0.5, (TopToken(5, b"\xed\x95", -0.5),)),
        TokenLogprob(6, "한".encode()[2:], float("-inf")),
    )
    EVENTS: tuple[ChatEvent, ...] = (
        Prefilled(1),
        Delta(0, "a", (TokenLogprob(1, b"a", -0.25, (TopToken(1, b"a", -0.25),)),)),
        Delta(0, "한", HALVES),
        Delta(0, "", (TokenLogprob(7, b"!", -1.0),)),
        Finished(0, "stop", 4),
    )

    def test_each_token_has_its_text_bytes_and_most_likely_tokens(self) -> None:
        answer = whole(list(self.EVENTS), logprobs=True, top_logprobs=1)
        content = answer["choices"][0]["logprobs"]["content"]
        first = {"token": "a", "logprob": -0.25, "bytes": [97]}
        assert content[0] == {**first, "top_logprobs": [first]}
        assert bytes(content[1]["bytes"] + content[2]["bytes"]).decode() == "한"
        assert content[2]["logprob"] == -9999.0
        assert len(content) == 4

    def test_the_chunks_together_have_the_same(self) -> None:
        fields = {"logprobs": True, "top_logprobs": 1}
        expected = whole(list(self.EVENTS), **fields)["choices"][0]["logprobs"]["content"]
        assert assembled(chunks(list(self.EVENTS), **fields))["logprobs"] == expected

    def test_tokens_of_a_call_that_is_held_back_are_sent_with_the_call(self) -> None:
        tokens = [TokenLogprob(i, letter.encode(), -0.1) for i, letter in enumerate(CALL)]
        events: list[ChatEvent] = [Prefilled(1)]
        events += [Delta(0, t.data.decode(), (t,)) for t in tokens]
        events.append(Finished(0, "stop", len(CALL)))
        made = assembled(chunks(events, logprobs=True, tools=[CLOCK]))
        assert "".join(token["token"] for token in made["logprobs"]) == CALL

    def test_without_being_requested_there_are_none(self) -> None:
        assert whole(list(self.EVENTS))["choices"][0]["logprobs"] is None
