"""A streamed chat as response events: ordered, complete, and the same however it is cut."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import Unavailable
from tests.gateway.responses.given import OPENAI, USAGE, chunk, read, rewriting, sse
from web.sse import error_event

ERROR = {"message": "the worker ended", "type": "server_error", "param": None, "code": "worker_failed"}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
START = chunk({"role": "assistant", "content": ""})
END = [chunk({}, finish_reason="stop"), chunk(usage=USAGE), "[DONE]"]


def translate(*events: Any) -> list[dict[str, Any]]:
    """The response events for a stream of *events*, validated by OpenAI's models."""
    rewrite = rewriting()
    made = read(rewrite.feed(sse(*events)) + rewrite.end())
    for event in made:
        OPENAI.validate_python(event)
    return made


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def text_chunk(text: str, **fields: Any) -> dict[str, Any]:
    return chunk({"content": text}, **fields)


def call(index: int, id: str | None = None, **function: Any) -> dict[str, Any]:
    named = {"id": id, "type": "function"} if id else {}
    return chunk({"tool_calls": [{"index": index, **named, "function": function}]})


TEXT_ADDED = ["output_item.added", "content_part.added"]
TEXT_DONE = ["output_text.done", "content_part.done", "output_item.done"]


# --- texts ----------------------------------------------------------------------------------------


def test_a_text_is_added_streamed_and_done() -> None:
    events = translate(START, text_chunk("한"), text_chunk("글"), *END)
    deltas = ["output_text.delta"] * 2
    assert kinds(events) == ["created", "in_progress", *TEXT_ADDED, *deltas, *TEXT_DONE, "completed"]
    created, _, added, part, first, second, done, part_done, item_done, completed = events
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert added["item"] == {
        "id": "msg_0",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    assert part["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert (first["delta"], second["delta"], done["text"]) == ("한", "글", "한글")
    assert part_done["part"] == {**part["part"], "text": "한글"}
    assert item_done["item"] == {**added["item"], "status": "completed", "content": [part_done["part"]]}
    for event in (part, first, second, done, part_done):
        assert (event["item_id"], event["output_index"], event["content_index"]) == ("msg_0", 0, 0)
    final = completed["response"]
    assert (final["status"], final["output"]) == ("completed", [item_done["item"]])
    assert (final["usage"]["total_tokens"], final["completed_at"]) == (10, 1_700_000_060)


def test_the_response_begins_with_the_first_byte_and_comments_pass() -> None:
    rewrite = rewriting()
    first = rewrite.feed(b": loading 42 %\n\n")
    assert kinds(read(first)) == ["created", "in_progress"]
    assert first.endswith(b": loading 42 %\n\n")
    assert rewrite.feed(b": loading 43 %\n\n") == b": loading 43 %\n\n"


def test_an_empty_completion_is_an_empty_message() -> None:
    events = translate(START, *END)
    assert kinds(events)[2:-1] == [*TEXT_ADDED, *TEXT_DONE]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_the_token_limit_leaves_the_item_incomplete() -> None:
    events = translate(
        START, text_chunk("a"), chunk({}, finish_reason="length"), chunk(usage=USAGE), "[DONE]"
    )
    assert kinds(events)[-2:] == ["output_item.done", "incomplete"]
    assert events[-2]["item"]["status"] == "incomplete"
    final = events[-1]["response"]
    assert (final["status"], final["completed_at"]) == ("incomplete", None)
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}


def test_logprobs_are_in_their_delta_and_in_the_final_text() -> None:
    logprobs = {"content": [TOKEN]}
    events = translate(
        START, text_chunk("a", logprobs=logprobs), text_chunk("", logprobs=logprobs), *END
    )
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [delta["logprobs"] for delta in deltas] == [[TOKEN], [TOKEN]]
    done = next(event for event in events if event["type"] == "response.output_text.done")
    assert done["logprobs"] == [TOKEN, TOKEN]


# --- calls ----------------------------------------------------------------------------------------


def test_a_call_is_an_item_whose_arguments_grow() -> None:
    events = translate(
        START, call(0, "c1", name="look", arguments=""), call(0, arguments="{"), call(0, arguments="}"),
        chunk({}, finish_reason="tool_calls"), *END[1:],
    )  # fmt: skip
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    added, first, second, done, item_done, completed = events[2:]
    item = {
        "id": "fc_0",
        "type": "function_call",
        "status": "in_progress",
        "call_id": "c1",
        "name": "look",
        "arguments": "",
    }
    assert added["item"] == item
    assert (first["delta"], second["delta"]) == ("{", "}")
    assert (done["name"], done["arguments"]) == ("look", "{}")
    assert item_done["item"] == {**item, "status": "completed", "arguments": "{}"}
    assert completed["response"]["output"] == [item_done["item"]]


def test_items_stand_in_the_order_in_which_they_were_written() -> None:
    events = translate(
        START,
        text_chunk("I look."),
        call(0, "c1", name="look", arguments="{}"),
        call(1, "c2", name="look", arguments="{}"),
        text_chunk("Done."),
        *END,
    )
    marks = [(e["type"][21:], e["output_index"]) for e in events if "output_item" in e["type"]]
    assert marks == [(what, index) for index in range(4) for what in ("added", "done")]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", *["function_call"] * 2, "message"]
    assert len({item["id"] for item in output}) == 4


def test_logprobs_of_a_call_are_left_out() -> None:
    made = call(0, "c1", name="look", arguments="{}")
    made["choices"][0]["logprobs"] = {"content": [TOKEN]}
    last = chunk({"content": ""}, logprobs={"content": [TOKEN]})
    assert [item["type"] for item in translate(START, made, last, *END)[-1]["response"]["output"]] == [
        "function_call"
    ]


# --- errors ---------------------------------------------------------------------------------------


def failure(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The error at the end of a stream, in both forms: for readers, and for SDKs that raise."""
    failed, error = events[-2:]
    assert kinds([failed, error]) == ["failed", "error"]
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["message"] == error["message"] == error["error"]["message"]
    assert error["error"]["source"]
    return error


def test_a_worker_error_keeps_its_message_and_the_text_so_far() -> None:
    events = translate(START, text_chunk("a"), {"error": ERROR}, text_chunk("b"), "[DONE]")
    assert kinds(events)[-3:] == ["output_text.delta", "failed", "error"]
    error = failure(events)
    assert (error["message"], error["code"]) == ("the worker ended", "worker_failed")
    assert events[-2]["response"]["error"]["code"] == "server_error"
    (item,) = events[-2]["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "a")


def test_missing_error_fields_are_filled_in() -> None:
    error = failure(translate({"error": {"message": "no"}}))["error"]
    assert set(error) == {"message", "type", "param", "code", "source"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("rate_limit_error", "rate_limit_exceeded"),
        ("invalid_request_error", "invalid_prompt"),
        ("never_heard_of", "server_error"),
    ],
)
def test_a_failure_has_the_nearest_of_openai_s_codes(kind: str, code: str) -> None:
    failed, _ = translate({"error": {**ERROR, "type": kind}})[-2:]
    assert failed["response"]["error"]["code"] == code


def test_an_error_names_the_field_as_the_client_sent_it() -> None:
    message = "messages[1].content: too long"
    error = {**ERROR, "message": message, "param": "messages[1].content"}
    made = failure(translate({"error": error}))
    assert (made["param"], made["message"]) == ("input[0].content", "input[0].content: too long")


def test_a_stream_that_ends_too_early_has_failed() -> None:
    assert failure(translate(START, text_chunk("a")))["code"] == "worker_failed"
    assert failure(translate())["code"] == "worker_failed"
    assert failure(translate(START, text_chunk("a"), END[0]))["code"] == "worker_failed"


def test_an_event_cut_in_the_middle_is_explained_by_the_error_after_it() -> None:
    rewrite = rewriting()
    half = sse(START, text_chunk("abc"))[:-20]
    end = error_event(Unavailable("the worker is stopping").body("worker"))
    assert failure(read(rewrite.feed(half) + rewrite.feed(end)))["message"] == "the worker is stopping"
    assert rewrite.end() == b""


def test_a_broken_stream_ends_with_the_reason() -> None:
    rewrite = rewriting()
    begun = rewrite.feed(sse(START, text_chunk("a")))
    error = failure(read(begun + rewrite.broken(Unavailable("we are stopping").body("gateway"))))
    assert (error["message"], error["error"]["source"]) == ("we are stopping", "gateway")
    assert rewrite.end() == rewrite.broken(Unavailable("again").body("gateway")) == b""


def test_a_stream_that_never_began_has_all_events() -> None:
    events = read(rewriting().broken(Unavailable("no").body("gateway")))
    assert kinds(events) == ["created", "in_progress", "failed", "error"]


def test_a_response_that_is_complete_can_not_break_off() -> None:
    rewrite = rewriting()
    rewrite.feed(sse(START, *END))
    assert rewrite.broken(Unavailable("no").body("gateway")) == b""


@pytest.mark.parametrize(
    "events",
    [
        [START, "{", text_chunk("a"), *END],
        [START, '{"object": "no chunk"}', *END],
        [START, "[DONE]"],
        [START, call(0, arguments="{}"), *END],
        [START, call(0, "c1", arguments="{}"), *END],
        [START, call(0, "c1", name="look"), call(1, arguments="{}"), *END],
    ],
    ids=["torn", "no chunk", "unfinished", "no id", "no name", "another call"],
)
def test_an_invalid_stream_is_an_upstream_error(events: list[Any]) -> None:
    assert failure(translate(*events))["code"] == "upstream_error"
