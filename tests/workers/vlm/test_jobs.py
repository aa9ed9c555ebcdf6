"""From chat requests to jobs: defaults, fields and grammars."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import InvalidRequest
from contracts.wire.chat import ChatRequest
from workers.engine import ChatJob, Turn
from workers.vlm import jobs

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TURNS = (Turn("user", ("hi",)),)


def job(**fields: Any) -> ChatJob:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})
    return jobs.chat_job(request, TURNS, 99, 1234)


class TestDefaults:
    def test_the_default_temperature_is_1_as_in_openais_api(self) -> None:
        assert job().sampling.temperature == 1.0

    def test_fields_that_the_client_did_not_send_are_listed_for_checkpoint_defaults(self) -> None:
        names = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
        assert job().unset == names
        assert job(temperature=0, top_k=5).unset == names - {"temperature", "top_k"}
        sent = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0, "repetition_penalty": 1.0}
        assert job(**sent).unset == frozenset()

    def test_temperature_0_is_kept(self) -> None:
        assert job(temperature=0).sampling.temperature == 0

    def test_the_max_tokens_setting_applies_when_the_client_sets_none(self) -> None:
        assert job().max_tokens == 99
        assert job(max_tokens=5).max_tokens == 5
        assert job(max_completion_tokens=6, max_tokens=5).max_tokens == 6

    def test_seed_0_is_kept_and_a_missing_seed_is_the_given_one(self) -> None:
        assert job(seed=0).sampling.seed == 0
        assert job().sampling.seed == 1234

    def test_every_sampling_field_reaches_the_job(self) -> None:
        fields = {
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.3,
            "frequency_penalty": 0.4,
        }
        made = job(**fields, stop="END", n=2)
        assert {key: getattr(made.sampling, key) for key in fields} == fields
        assert (made.stops, made.n) == (("END",), 2)

    def test_logprobs_and_bias_reach_the_job(self) -> None:
        made = job(logprobs=True, top_logprobs=3, logit_bias={"5": -100, "17": 2.5})
        assert (made.logprobs, made.top_logprobs) == (True, 3)
        assert made.logit_bias == ((5, -100.0), (17, 2.5))
        plain = job()
        assert (plain.logprobs, plain.top_logprobs, plain.logit_bias) == (False, 0, ())


class TestGrammars:
    def test_free_text_has_no_grammar(self) -> None:
        assert job().grammar is None
        assert job(response_format={"type": "text"}).grammar is None
        assert job(tools=[WEATHER]).grammar is None

    @pytest.mark.parametrize("strict", [True, False, None])
    def test_json_formats_have_one(self, strict: bool | None) -> None:
        schema = {"name": "x", "schema": PLACE, "strict": strict}
        schema_grammar = job(response_format={"type": "json_schema", "json_schema": schema}).grammar
        object_grammar = job(response_format={"type": "json_object"}).grammar
        assert schema_grammar is not None
        assert object_grammar is not None
        assert schema_grammar != object_grammar

    def test_a_schema_that_cannot_be_compiled_is_refused_with_the_reason(self) -> None:
        schema = {"name": "x", "schema": {"type": "colour"}}
        with pytest.raises(InvalidRequest, match="Invalid type: colour") as caught:
            job(response_format={"type": "json_schema", "json_schema": schema})
        assert caught.value.param == "response_format.json_schema.schema"

    def test_an_unsupported_keyword_is_an_error_only_in_strict_schemas(self) -> None:
        schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert job(response_format=form).grammar is not None
        form["json_schema"]["strict"] = True
        with pytest.raises(InvalidRequest, match="uniqueItems"):
            job(response_format=form)

    def test_the_error_for_a_tools_schema_names_the_tool(self) -> None:
        bad = {"name": "bad", "parameters": {"properties": {"a": {"type": "colour"}}}}
        with pytest.raises(InvalidRequest) as caught:
            job(tools=[WEATHER, {"type": "function", "function": bad}], tool_choice="required")
        assert caught.value.param == "tools[1].function.parameters"

    def test_a_required_or_named_call_has_a_grammar(self) -> None:
        some = job(tools=[WEATHER, CLOCK], tool_choice="required").grammar
        named = {"type": "function", "function": {"name": "clock"}}
        one = job(tools=[WEATHER, CLOCK], tool_choice=named).grammar
        assert some is not None
        assert one is not None
        assert "weather" in some.lark
        assert "weather" not in one.lark

    def test_calls_stay_possible_next_to_a_schema(self) -> None:
        both = job(tools=[CLOCK], response_format={"type": "json_object"}).grammar
        assert both is not None
        assert "clock" in both.lark


class TestTools:
    def test_tools_that_may_be_called_are_described_to_the_model(self) -> None:
        system = job(tools=[WEATHER, CLOCK]).turns[0]
        assert system.role == "system"
        assert '"name": "weather"' in str(system.parts[0])
        assert '"name": "clock"' in str(system.parts[0])

    def test_tools_that_must_not_be_called_are_not_described(self) -> None:
        assert job(tools=[WEATHER], tool_choice="none").turns == TURNS
