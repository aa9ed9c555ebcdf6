"""Chats in the form before tools: the worker's request and the client's response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest
from contracts.settings import Settings
from gateway.checks import check_chat
from gateway.legacy_functions import LegacyEvents, check_chat_or_legacy
from gateway.param_names import ParamNames
from tests.gateway.conftest import make_settings
from tests.gateway.responses import given as responses
from tests.gateway.responses.given import USAGE, sse
from tests.gateway.stand_in import StandIn
from tests.gateway.test_routes import error

ROUTE = "/v1/chat/completions"
LOOK = {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}}
HI = {"role": "user", "content": "hi"}
CALL = {"name": "look", "arguments": '{"at": "한글"}'}


@pytest.fixture
def sdk(client: httpx.Client) -> Iterator[Any]:  # its own types know nothing of dicts
    url = f"{client.base_url}/v1"
    with openai.OpenAI(
        base_url=url, api_key="unused", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_settings(tmp_path_factory.mktemp("settings"), "http://127.0.0.1:1")


def completion(*calls: dict[str, Any], finish: str = "tool_calls") -> dict[str, Any]:
    tools = [{"id": f"c{at}", "type": "function", "function": call} for at, call in enumerate(calls)]
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": tools}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "a"}
    return {**head, "choices": [choice], "usage": USAGE}


def chunk(*delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", **responses.chunk(*delta, **fields)}


def asked(settings: Settings, **fields: Any) -> dict[str, Any]:
    """The forwarded body of a request with *fields*."""
    body = json.dumps({"messages": [HI], **fields}).encode()
    sent: dict[str, Any] = json.loads(check_chat_or_legacy(settings, body).body)
    return sent


def refused(settings: Settings, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(settings, **fields)
    return caught.value


# --- the request ---------------------------------------------------------------------------------


def test_functions_become_tools_without_parallel_calls(settings: Settings) -> None:
    sent = asked(settings, functions=[LOOK], function_call="auto", temperature=0)
    assert sent == {
        "messages": [HI],
        "tools": [{"type": "function", "function": LOOK}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "temperature": 0,
    }


def test_a_function_can_be_required_by_name(settings: Settings) -> None:
    sent = asked(settings, functions=[LOOK], function_call={"name": "look"})
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}


def test_a_result_belongs_to_the_last_call_of_its_function(settings: Settings) -> None:
    reply = {"role": "assistant", "content": None, "function_call": CALL}
    result = {"role": "function", "name": "look", "content": "seen"}
    messages = asked(settings, messages=[HI, reply, result, reply, result])["messages"]
    ids = [message["tool_calls"][0]["id"] for message in (messages[1], messages[3])]
    assert len(set(ids)) == 2
    assert [message["tool_call_id"] for message in (messages[2], messages[4])] == ids
    assert messages[1]["tool_calls"][0]["function"] == CALL
    assert [message["role"] for message in messages] == ["user", *("assistant", "tool") * 2]


def test_a_chat_in_todays_form_is_forwarded_byte_for_byte(settings: Settings) -> None:
    for text in ("hi", 'the word "functions" and "function_call"'):
        body = json.dumps({"messages": [{"role": "user", "content": text}], "functions": []}).encode()
        assert check_chat_or_legacy(settings, body) == check_chat(settings, body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [LOOK, {"name": "a b"}]}, "functions[1].name"),
        ({"functions": [LOOK, LOOK]}, "functions[1].name"),
        ({"functions": [{**LOOK, "parameters": {"type": "string"}}]}, "functions[0].parameters.type"),
        ({"functions": "look"}, "functions"),
        ({"functions": [LOOK], "function_call": {"name": "other"}}, "function_call.name"),
        ({"functions": [LOOK], "function_call": "always"}, "function_call.type"),
        ({"function_call": {"name": "look"}}, "function_call"),
        ({"functions": [LOOK], "tools": [{"type": "function", "function": LOOK}]}, "tools"),
        ({"messages": [{"role": "function", "name": "look", "content": "x"}]}, "messages[0].role"),
        (
            {
                "functions": [LOOK],
                "messages": [HI, {"role": "function", "name": "look", "content": "x"}],
            },
            "messages[1].name",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "look"}}]},
            "messages[0].function_call.arguments",
        ),
    ],
)
def test_errors_name_the_client_s_fields(
    settings: Settings, fields: dict[str, Any], param: str
) -> None:
    reported = refused(settings, **fields)
    assert (reported.status, reported.param) == (400, param)
    assert reported.message.startswith(param)


@pytest.mark.parametrize("odd", ["NaN", r'"\ud800"', '{"a": ' * 5000 + "1" + "}" * 5000])
def test_non_standard_json_is_refused(settings: Settings, odd: str) -> None:
    body = f'{{"messages": [], "functions": [{{"name": "f", "parameters": {odd}}}]}}'.encode()
    with pytest.raises(InvalidRequest, match="the body is not valid JSON"):
        check_chat_or_legacy(settings, body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    functions=_JSON, call=_JSON, reply=_JSON, role=st.sampled_from(["assistant", "function", "user"])
)
def test_any_input_is_accepted_or_refused(
    settings: Settings, functions: Any, call: Any, reply: Any, role: str
) -> None:
    message = {"role": role, "content": "x", "name": reply, "function_call": reply}
    body = {"messages": [HI, message], "functions": functions, "function_call": call}
    with suppress(InvalidRequest):
        check_chat_or_legacy(settings, json.dumps(body).encode())


# --- the response --------------------------------------------------------------------------------


def test_a_call_is_reported_in_the_legacy_form(sdk: Any, manager: StandIn) -> None:
    manager.answer(completion(CALL, {"name": "other", "arguments": "{}"}))
    made = sdk.chat.completions.create(model="a", messages=[HI], functions=[LOOK])
    (choice,) = made.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.to_dict() == CALL
    assert choice.message.tool_calls is None
    assert made.usage.total_tokens == USAGE["total_tokens"]


def test_a_text_completion_is_unchanged(client: httpx.Client, manager: StandIn) -> None:
    given = completion(finish="stop")
    given["choices"][0]["message"] = {"role": "assistant", "content": "한글"}
    manager.answer(given)
    assert client.post(ROUTE, json={"messages": [HI], "functions": [LOOK]}).json() == given


def test_a_streamed_call_is_reported_in_the_legacy_form(sdk: Any, manager: StandIn) -> None:
    call = {"index": 0, "id": "c0", "type": "function", "function": {"name": "look", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a":', " 1}")]
    manager.answer(
        sse(
            chunk({"role": "assistant", "content": None}),
            *(chunk({"tool_calls": [delta]}) for delta in (call, *more)),
            chunk({"tool_calls": [{**call, "index": 1}]}),
            chunk({}, finish_reason="tool_calls"),
            chunk(usage=USAGE),
            "[DONE]",
        )
    )
    stream = sdk.chat.completions.create(model="a", messages=[HI], functions=[LOOK], stream=True)
    chunks = list(stream)
    deltas = [choice.delta.function_call for made in chunks for choice in made.choices]
    reported = [delta for delta in deltas if delta is not None]
    assert reported[0].name == "look"
    assert "".join(delta.arguments for delta in reported) == '{"a": 1}'
    assert all(choice.delta.tool_calls is None for made in chunks for choice in made.choices)
    assert [choice.finish_reason for choice in chunks[-2].choices] == ["function_call"]
    assert chunks[-1].usage.total_tokens == USAGE["total_tokens"]


def test_a_stream_that_is_cut_raises(sdk: Any, manager: StandIn) -> None:
    manager.answer(sse(chunk({"content": "a"}), chunk({"content": "b"}))[:-20], cut=True)
    with pytest.raises(openai.APIError, match="the response broke off"):
        list(sdk.chat.completions.create(model="a", messages=[HI], functions=[LOOK], stream=True))


def test_an_error_in_a_stream_names_what_the_client_sent() -> None:
    names = ParamNames({"tools": "functions"})
    reported = {"error": {"message": "tools: no", "param": "tools", "code": None, "type": "t"}}
    event, _, data = LegacyEvents(names).feed(sse(reported)).partition(b"\n")
    assert event == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["message"] == "functions: no"


def test_a_stream_is_rewritten_the_same_however_it_is_cut() -> None:
    stream = b": loading\n\n" + sse(
        chunk({"content": "한"}), chunk({}, finish_reason="tool_calls"), "[DONE]"
    )
    whole = LegacyEvents(ParamNames({})).feed(stream)
    for size in range(1, 40, 3):
        events = LegacyEvents(ParamNames({}))
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert b"".join(map(events.feed, pieces)) == whole, size


def test_an_error_of_the_worker_names_the_function(client: httpx.Client, manager: StandIn) -> None:
    param = "tools[0].function.parameters"
    reported = {
        "message": f"{param}: no grammar",
        "type": "t",
        "param": param,
        "code": None,
        "source": "w",
    }
    manager.answer({"error": reported}, status=400)
    answer = client.post(ROUTE, json={"messages": [HI], "functions": [LOOK]})
    assert answer.status_code == 400
    assert error(answer)["param"] == "functions[0].parameters"


def test_an_invalid_chat_completion_is_an_upstream_error(
    client: httpx.Client, manager: StandIn
) -> None:
    manager.answer({"choices": "none"})
    answer = client.post(ROUTE, json={"messages": [HI], "functions": [LOOK]})
    assert (answer.status_code, error(answer)["code"]) == (502, "upstream_error")
