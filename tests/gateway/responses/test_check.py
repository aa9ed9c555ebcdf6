"""A Responses API request is checked as its chat, and errors name the client's fields."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, ModelNotFound
from contracts.settings import Settings
from contracts.wire import parse_json
from contracts.wire.responses import ResponseRequest
from gateway.checks import check_chat
from gateway.responses.chat import chat_of
from gateway.responses.rewrite import check_response
from tests.gateway.conftest import make_settings
from tests.gateway.responses.given import LOOK, call, result
from tests.gateway.test_routes import B64

IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{B64}"}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_settings(tmp_path_factory.mktemp("chat"), "http://127.0.0.1:1")


BAD_CHATS = [
    (
        {
            "instructions": "x",
            "input": [user({"type": "input_text", "text": "a"}, {**IMAGE, "image_url": "!"})],
        },
        "input[0].content[1].image_url",
    ),
    (
        {"input": [user(IMAGE), call("c"), result("c", [{**IMAGE, "image_url": "data:x"}])]},
        "input[2].output[0].image_url",
    ),
    ({"input": [user(IMAGE), result("unknown")]}, "input[1].call_id"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": [LOOK, LOOK]}, "tools[1].name"),
    ({"tools": [{**LOOK, "parameters": {"type": "string"}}]}, "tools[0].parameters.type"),
    ({"seed": "x"}, "seed"),
    ({"stop": [""]}, "stop[0]"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHATS, ids=lambda value: str(value)[-60:])
def test_an_error_in_the_chat_names_the_client_s_field(
    settings: Settings, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"input": "hi", **fields}).encode()
    with pytest.raises(InvalidRequest) as caught:
        check_response(settings, body)
    assert caught.value.param == param
    assert "messages" not in caught.value.message
    assert "function" not in caught.value.message.partition(":")[0]


def test_nan_is_refused(settings: Settings) -> None:
    tool = json.dumps({**LOOK, "parameters": {"maximum": "x"}}).replace('"x"', "NaN")
    with pytest.raises(InvalidRequest, match="NaN"):
        check_response(settings, f'{{"input": "hi", "tools": [{tool}]}}'.encode())


_KEYS = st.sampled_from(
    [
        "type", "role", "content", "text", "image_url", "detail", "file_id", "call_id", "name",
        "arguments", "output", "parameters", "strict", "format", "schema", "id",
    ]
)  # fmt: skip
_WORDS = st.sampled_from(
    [
        "message", "function", "function_call", "function_call_output", "item_reference",
        "reasoning", "input_text", "user", "input_image", "output_text", "refusal", "json_schema",
        "auto", "required", "assistant", "data:image/png;base64,",
    ]
)  # fmt: skip
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(), inner, max_size=5),
    max_leaves=12,
)
_FIELDS = st.sampled_from([*ResponseRequest.model_fields, "prompt", "n", "seed", "stop", "logit_bias"])


@given(body=st.fixed_dictionaries({"input": _ANYTHING}) | st.dictionaries(_FIELDS, _ANYTHING))
def test_any_request_becomes_a_chat_or_is_refused(body: dict[str, Any]) -> None:
    try:
        made, _ = chat_of(parse_json(ResponseRequest, json.dumps(body).encode()))
    except InvalidRequest:
        return
    assert json.loads(made)["messages"] is not None


def test_an_unknown_model_stays_a_404(settings: Settings) -> None:
    with pytest.raises(ModelNotFound) as caught:
        check_response(settings, b'{"input": "hi", "model": "gpt-9"}')
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_the_check_returns_a_chat_and_a_rewrite(settings: Settings) -> None:
    body = json.dumps({"input": [user(IMAGE)], "model": "alpha", "stream": True, "keep_alive": 5})
    checked = check_response(settings, body.encode())
    assert (checked.alias, checked.stream, checked.keep_alive) == ("a", True, 5)
    assert checked == replace(check_chat(settings, checked.body), rewrite=checked.rewrite)
    assert B64 not in repr(checked.rewrite)  # a stream may last for minutes
