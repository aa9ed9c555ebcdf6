"""Structured output on the demo checkpoints: schemas, calls, logprobs, bias."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contracts.errors import InvalidRequest
from contracts.tasks import TASKS
from contracts.wire.chat import ChatRequest
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, ends, talk
from workers.engine import ChatEvent, ChatJob, Delta, Turn
from workers.serving.endpoint import Identity
from workers.vlm import jobs
from workers.vlm.completions import ChatChunks, Shape, chat_completion, text_of
from workers.vlm.tool_calls import CLOSE, OPEN

pytestmark = pytest.mark.mlx

SCENE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))
CIRCLE = world.render(SCENE)
COLOR = {"enum": ["red", "green", "blue", "yellow"]}
SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "star"]}, "color": COLOR, "ground": COLOR},
    "required": ["shape", "color", "ground"],
    "additionalProperties": False,
}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}
WAIT = {"type": "function", "function": {"name": "wait"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA, "strict": True}}


def request(**fields: Any) -> ChatRequest:
    base = {"messages": [{"role": "user", "content": "-"}], "temperature": 0, "max_tokens": 120}
    return ChatRequest.model_validate({**base, **fields})


def job(asked: ChatRequest) -> ChatJob:
    turns = (Turn("user", (CIRCLE, TASKS["describe"].prompt or "")),)
    return jobs.chat_job(asked, turns, 100, 7)


def choices(events: list[ChatEvent], asked: ChatRequest) -> list[Any]:
    shape = Shape.of(asked, Identity("c", 1, "vlm-best"), iter(map(str, range(99))).__next__)
    made: list[Any] = json.loads(chat_completion(shape, events))["choices"]
    return made


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_completion_matches_its_schema_and_ends_with_it(qwen: Talker, temperature: float) -> None:
    asked = request(response_format=FORMAT, temperature=temperature)
    events = qwen.events(job(asked))
    seen = json.loads(text_of(events))
    assert seen.keys() == {"shape", "color", "ground"}
    assert {seen["color"], seen["ground"]} <= {*COLOR["enum"]}
    assert ends(events)[0].finish_reason == "stop"


def test_each_of_n_completions_matches_the_schema(qwen: Talker) -> None:
    asked = request(response_format=FORMAT, temperature=1.5, n=3)
    for choice in choices(qwen.events(job(asked)), asked):
        assert json.loads(choice["message"]["content"]).keys() == {"shape", "color", "ground"}


def test_the_json_object_format_gives_an_object(qwen: Talker) -> None:
    asked = request(response_format={"type": "json_object"})
    (choice,) = choices(qwen.events(job(asked)), asked)
    assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"paint", "wait"}),
        ({"type": "function", "function": {"name": "paint"}}, {"paint"}),
        ({"type": "function", "function": {"name": "wait"}}, {"wait"}),
    ],
    ids=["required", "paint", "wait"],
)
def test_a_required_tool_is_called(qwen: Talker, choice: Any, names: set[str]) -> None:
    asked = request(tools=[PAINT, WAIT], tool_choice=choice, parallel_tool_calls=False)
    (made,) = choices(qwen.events(job(asked)), asked)
    assert made["finish_reason"] == "tool_calls"
    assert made["message"]["content"] is None
    (call,) = made["message"]["tool_calls"]
    assert call["function"]["name"] in names
    arguments = json.loads(call["function"]["arguments"])
    expected = {"shape", "color", "ground"} if call["function"]["name"] == "paint" else set()
    assert arguments.keys() == expected


def test_calls_are_the_same_whole_and_streamed(qwen: Talker) -> None:
    asked = request(tools=[PAINT, WAIT], tool_choice="required", temperature=1.5, n=2)
    events = qwen.events(job(asked))
    whole = choices(events, asked)
    chunks = ChatChunks(Shape.of(asked, Identity("c", 1, "vlm-best"), lambda: "id"))
    sent = [json.loads(line[6:]) for event in events for line in chunks.of(event).splitlines() if line]
    for choice in whole:
        calls = choice["message"]["tool_calls"]
        assert choice["message"]["content"] is None
        deltas = [c["delta"] for e in sent for c in e["choices"] if c["index"] == choice["index"]]
        parts = [call for delta in deltas for call in delta.get("tool_calls", [])]
        for index, call in enumerate(calls):
            pieces = [part["function"] for part in parts if part["index"] == index]
            assert "".join(f.get("name", "") for f in pieces) == call["function"]["name"]
            assert "".join(f.get("arguments", "") for f in pieces) == call["function"]["arguments"]
        assert len({part["index"] for part in parts}) == len(calls)
        assert not any(delta.get("content") for delta in deltas)


def test_the_tags_of_a_required_call_are_the_tokenizers_own_tokens(qwen: Talker) -> None:
    asked = request(tools=[WAIT], tool_choice="required", parallel_tool_calls=False, logprobs=True)
    events = qwen.events(job(asked))
    tokens = [token for e in events if isinstance(e, Delta) for token in e.logprobs]
    assert b"".join(token.data for token in tokens).decode() == text_of(events)
    tags = [qwen.engine._tokenizer.convert_tokens_to_ids(tag) for tag in (OPEN, CLOSE)]
    assert [tokens[0].token_id, tokens[-1].token_id] == tags


def test_a_stop_string_ends_a_required_call(qwen: Talker) -> None:
    asked = request(tools=[WAIT], tool_choice="required", stop=[CLOSE])
    (made,) = choices(qwen.events(job(asked)), asked)
    (call,) = made["message"]["tool_calls"]
    assert call["function"]["name"] == "wait"


def test_with_tools_and_a_format_the_model_may_call_or_answer(qwen: Talker) -> None:
    opening = str(qwen.engine._tokenizer.convert_tokens_to_ids(OPEN))
    for bias, called in ((100, True), (-100, False)):
        asked = request(
            tools=[PAINT, WAIT],
            response_format=FORMAT,
            logit_bias={opening: bias},
            parallel_tool_calls=False,
        )
        (made,) = choices(qwen.events(job(asked)), asked)
        assert ("tool_calls" in made["message"]) is called
        if not called:
            assert json.loads(made["message"]["content"]).keys() == {"shape", "color", "ground"}


def test_a_tool_result_is_part_of_the_next_prompt(qwen: Talker) -> None:
    turns = [
        Turn("user", (CIRCLE, TASKS["caption"].prompt or "")),
        Turn("assistant", ('<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>',)),
    ]
    more = [*turns, Turn("user", ("<tool_response>\nred\n</tool_response>",))]
    assert qwen.prompt_tokens(more) > qwen.prompt_tokens(turns) + 3


def test_a_restricted_completion_has_the_models_own_logprobs(qwen: Talker) -> None:
    asked = request(response_format=FORMAT, logprobs=True, top_logprobs=2)
    events = qwen.events(job(asked))
    tokens = [token for e in events if isinstance(e, Delta) for token in e.logprobs]
    assert b"".join(token.data for token in tokens).decode() == text_of(events)
    # The grammar forced tokens that were less likely than others.
    assert any(token.logprob < token.top[0].logprob for token in tokens)


def test_a_bias_against_a_required_token_does_not_break_the_schema(qwen: Talker) -> None:
    tokenizer = qwen.engine._tokenizer
    bias = {str(tokenizer.encode("{", add_special_tokens=False)[0]): -100}
    asked = request(response_format=FORMAT, logit_bias=bias)
    assert json.loads(text_of(qwen.events(job(asked)))).keys() == {"shape", "color", "ground"}


def test_moondream_output_matches_a_schema_too(moondream: Talker) -> None:
    rule = job(request(response_format=FORMAT)).grammar
    turns = [Turn("user", (CIRCLE, TASKS["caption"].prompt or ""))]
    events = moondream.events(replace(talk(turns, max_tokens=120), grammar=rule))
    assert json.loads(text_of(events)).keys() == {"shape", "color", "ground"}


def test_a_bias_for_an_unknown_token_is_refused(qwen: Talker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        qwen.events(job(request(logit_bias={"640": 1})))
    assert caught.value.param == "logit_bias.640"
