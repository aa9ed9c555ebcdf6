"""The routes of a vision-language worker: chat, tool calls, analysis."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from contracts.errors import ContextLengthExceeded
from testkit.fakes.engine import FakeEngine
from tests.workers.apps import CALL, DRAW, HELLO, WEATHER, b64, error_of, png


class TestChat:
    def test_a_completion_has_openais_form(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        answer = vlm.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "abc"})
        body = answer.json()
        assert answer.headers["x-request-id"] == "abc"
        assert body["choices"][0]["message"]["content"] == "a b c"
        assert body["usage"] == {
            "prompt_tokens": 5,
            "completion_tokens": 4,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        assert engine.jobs[0].max_tokens == 77

    def test_a_stream_is_the_same_text_and_ends_with_done(self, vlm: httpx.Client) -> None:
        fields = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
        answer = vlm.post("/v1/chat/completions", json=fields)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        chunks = [json.loads(event) for event in events[:-1]]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
        assert (text, events[-1]) == ("a b c", "[DONE]")
        assert chunks[-1]["usage"]["total_tokens"] == 9
        assert len({chunk["id"] for chunk in chunks}) == 1

    def test_a_developer_message_is_a_system_turn_and_images_are_decoded(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        uri = f"data:image/png;base64,{b64(png(9, 5))}"
        messages = [
            {"role": "developer", "content": "brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": uri}},
                ],
            },
        ]
        assert vlm.post("/v1/chat/completions", json={"messages": messages}).status_code == 200
        system, user = engine.jobs[0].turns
        assert (system.role, system.parts) == ("system", ("brief",))
        assert user.parts[0] == "what?"
        assert (user.parts[1].mode, user.parts[1].size) == ("RGB", (9, 5))

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_damaged_image_is_refused_with_its_field_before_the_model_gets_it(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        part = {"type": "image_url", "image_url": {"url": b64(png()[:40])}}
        fields = {"messages": [{"role": "user", "content": [part]}], "stream": stream}
        answer = vlm.post("/v1/chat/completions", json=fields)
        assert answer.status_code == 400
        assert error_of(answer)["param"] == "messages[0].content[0].image_url.url"
        assert engine.jobs == []

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_before_the_first_byte_has_its_own_status(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        engine.refusal = ContextLengthExceeded("too long")
        answer = vlm.post("/v1/chat/completions", json={**HELLO, "stream": stream})
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "context_length_exceeded"

    def test_a_failed_generation_is_a_500_that_should_not_be_retried(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.words = ["a", ValueError("inside")]
        answer = vlm.post("/v1/chat/completions", json=HELLO)
        assert (answer.status_code, error_of(answer)["code"]) == (500, "generation_failed")
        assert answer.headers["x-should-retry"] == "false"

    def test_a_failure_in_the_middle_of_a_stream_ends_it_with_an_error_event(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.words = ["a", ValueError("inside")]
        answer = vlm.post("/v1/chat/completions", json={**HELLO, "stream": True})
        assert answer.status_code == 200
        last = answer.text.strip().split("\n\n")[-1].strip()
        name, data = last.split("\n")
        assert name == "event: error"
        assert json.loads(data[6:])["error"]["code"] == "generation_failed"
        assert "[DONE]" not in answer.text

    @pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"messages": []}', b"\xff"])
    def test_an_invalid_body_is_refused(self, vlm: httpx.Client, body: bytes) -> None:
        answer = vlm.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert error_of(answer)["type"] == "invalid_request_error"

    def test_other_methods_and_routes_have_their_own_errors(self, vlm: httpx.Client) -> None:
        assert error_of(vlm.get("/v1/chat/completions"))["code"] == "method_not_allowed"
        assert error_of(vlm.get("/nowhere"))["code"] == "not_found"

    def test_the_error_for_a_route_of_the_other_kind_lists_this_models_routes(
        self, vlm: httpx.Client
    ) -> None:
        answer = vlm.post("/v1/images/generations", json=DRAW)
        assert answer.status_code == 404
        assert "/v1/chat/completions" in error_of(answer)["message"]


class TestTools:
    def test_a_call_and_its_result_make_a_round_trip(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.words = ["Let me look.\n", CALL[:30], CALL[30:]]
        fields = {**HELLO, "tools": [WEATHER]}
        (choice,) = vlm.post("/v1/chat/completions", json=fields).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Let me look."
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Busan"}'}
        system, _ = engine.jobs[0].turns
        assert '"name": "weather"' in system.parts[0]

        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "17 degrees"},
            {"role": "tool", "tool_call_id": call["id"], "content": "sun"},
        ]
        more = [*HELLO["messages"], choice["message"], *results]
        engine.words = ["It is 17 degrees."]
        answer = vlm.post("/v1/chat/completions", json={**fields, "messages": more}).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        _, _, call_turn, result_turn = engine.jobs[1].turns
        assert (call_turn.role, "".join(call_turn.parts)) == ("assistant", f"Let me look.\n{CALL}")
        assert (result_turn.role, "".join(result_turn.parts)) == (
            "user",
            "<tool_response>\n17 degrees\n</tool_response>\n<tool_response>\nsun\n</tool_response>",
        )

    def test_a_streamed_call_is_the_same_call(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        engine.words = list(CALL)
        fields = {**HELLO, "tools": [WEATHER], "stream": True}
        text = vlm.post("/v1/chat/completions", json=fields).text
        data = [json.loads(b[6:]) for b in text.split("\n\n") if b.startswith("data: {")]
        parts = [p for d in data for p in d["choices"][0]["delta"].get("tool_calls", [])]
        assert [part["index"] for part in parts] == [0] * len(parts)
        assert parts[0]["id"].startswith("call_")
        assert parts[0]["function"]["name"] == "weather"
        assert "".join(p["function"]["arguments"] for p in parts) == '{"city": "Busan"}'
        assert data[-1]["choices"][0]["finish_reason"] == "tool_calls"

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_schema_that_cannot_be_compiled_is_a_400_before_the_model_gets_it(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "colour"}}}
        fields = {**HELLO, "response_format": form, "stream": stream}
        answer = vlm.post("/v1/chat/completions", json=fields)
        assert answer.status_code == 400
        assert error_of(answer)["param"] == "response_format.json_schema.schema"
        assert "colour" in error_of(answer)["message"]
        assert engine.jobs == []

    def test_a_response_format_reaches_the_engine_as_a_grammar(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        vlm.post("/v1/chat/completions", json={**HELLO, "response_format": {"type": "json_object"}})
        vlm.post("/v1/chat/completions", json=HELLO)
        assert engine.jobs[0].grammar is not None
        assert engine.jobs[1].grammar is None


class TestDetail:
    def size(self, vlm: httpx.Client, engine: FakeEngine, **fields: Any) -> tuple[int, int]:
        url = {"url": b64(png(1200, 600)), **fields}
        content = [{"type": "image_url", "image_url": url}]
        answer = vlm.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}
        )
        assert answer.status_code == 200
        size: tuple[int, int] = engine.jobs[-1].turns[0].parts[0].size
        return size

    def test_an_image_is_as_large_as_its_detail_allows(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        assert self.size(vlm, engine) == (1200, 600)
        assert self.size(vlm, engine, detail="high") == (1200, 600)
        assert self.size(vlm, engine, detail="low") == (616, 308)
        assert self.size(vlm, engine, max_pixels=50_000) == (308, 140)

    def test_max_pixels_of_the_request_applies_to_all_images(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        parts = [
            {"type": "image_url", "image_url": {"url": b64(png(280, 280)), **own}}
            for own in ({}, {"max_pixels": 784}, {"detail": "high"})
        ]
        fields = {"messages": [{"role": "user", "content": parts}], "max_pixels": 4 * 784}
        assert vlm.post("/v1/chat/completions", json=fields).status_code == 200
        assert [part.size for part in engine.jobs[0].turns[0].parts] == [(56, 56), (28, 28), (56, 56)]

    def test_an_analysis_bounds_its_image_too(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        fields = {"image": b64(png(1200, 600)), "detail": "low"}
        assert vlm.post("/v1/vision/analyze", json=fields).status_code == 200
        assert engine.jobs[0].turns[0].parts[0].size == (616, 308)
        assert engine.jobs[0].skill == "caption"


class TestAnalyze:
    def test_a_task_prompt_is_sampled_greedily(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        engine.words = ["- a red", " star\n", "- a cat"]
        fields = {"image": b64(png()), "task": "objects"}
        body = vlm.post("/v1/vision/analyze", json=fields).json()
        assert body["objects"] == ["a red star", "a cat"]
        assert body["usage"]["latency"] >= 0
        (job,) = engine.jobs
        assert job.sampling.temperature == 0
        assert job.turns[0].parts[1] == "List the objects in this image, one per line."

    def test_a_faulty_image_is_refused_with_its_field(self, vlm: httpx.Client) -> None:
        answer = vlm.post("/v1/vision/analyze", json={"image": b64(png()[:30])})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "image")
