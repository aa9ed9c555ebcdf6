"""Field names are translated from the chat's to the client's."""

from __future__ import annotations

import json

import pytest

from contracts.errors import InvalidRequest, UnsupportedParameter
from gateway.param_names import ParamNames
from gateway.responses.chat import NAMES


@pytest.fixture
def names() -> ParamNames:
    names = ParamNames(NAMES)
    names.note("messages[0]", "instructions", leaf=True)
    names.note("messages[1]", "input[0]")
    names.note("messages[1].content[2].image_url", "input[0].content[2].image_url", leaf=True)
    names.note("messages[1].content[2].image_url.detail", "input[0].content[2].detail")
    names.note("tools[0].function", "tools[0]")
    return names


@pytest.mark.parametrize(
    ("chat", "translated"),
    [
        ("messages", "input"),
        ("messages[0].content[0].text", "instructions"),
        ("messages[1]", "input[0]"),
        ("messages[1].content[0].text", "input[0].content[0].text"),
        ("messages[1].content[2].image_url.url", "input[0].content[2].image_url"),
        ("messages[1].content[2].image_url.detail", "input[0].content[2].detail"),
        ("tools[0].function.parameters.properties.a", "tools[0].parameters.properties.a"),
        ("tools[0].type", "tools[0].type"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format.type", "text.format.type"),
        ("max_completion_tokens", "max_output_tokens"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("temperature", "temperature"),
        ("", ""),
        ("messages_of_mine", "messages_of_mine"),
    ],
)
def test_a_name_is_translated_by_its_nearest_known_parent(
    names: ParamNames, chat: str, translated: str
) -> None:
    assert names.translated(chat) == translated


def test_an_error_keeps_its_kind_and_its_words(names: ParamNames) -> None:
    error = UnsupportedParameter("messages[1].content: no", param="messages[1].content")
    translated = names.error(error)
    assert type(translated) is UnsupportedParameter
    assert (translated.param, translated.message, translated.code) == (
        "input[0].content",
        "input[0].content: no",
        "unsupported_parameter",
    )


def test_an_error_without_a_field_is_unchanged(names: ParamNames) -> None:
    translated = names.error(InvalidRequest("the body is no JSON"))
    assert (translated.param, translated.message) == (None, "the body is no JSON")


def test_an_error_body_is_translated(names: ParamNames) -> None:
    error = {
        "message": "세 messages",
        "type": "t",
        "param": "messages",
        "code": None,
        "source": "worker",
    }
    translated = json.loads(names.error_body(json.dumps({"error": error}).encode()))
    assert translated == {"error": {**error, "param": "input"}}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"error": "x"}', b'{"error": {}}', b'"x"', b"\xff"]
)
def test_other_bodies_are_unchanged(names: ParamNames, body: bytes) -> None:
    assert names.error_body(body) == body
