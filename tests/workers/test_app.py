"""The app over real sockets, with a small engine without a model behind it."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from contracts.control import Download, Phase, WorkerHealth
from contracts.errors import InvalidRequest
from contracts.openai import ImagesResponse
from contracts.settings_models import ImageSettings, VlmSettings
from tests.servers import served
from tests.workers.fakes import FakeEngine
from workers.app import create_app
from workers.engine import ImageJob, LoadError
from workers.files import recipe_of

VLM = VlmSettings(kind="vlm", path="x", port=1, memory_gb=1.0, max_tokens=77)
IMAGE = ImageSettings(
    kind="image",
    family="flux1-schnell",
    path="x",
    port=1,
    memory_gb=1.0,
    edit_steps=8,
    size="64x32",
    max_pixels=64 * 64,
)
HELLO = {"messages": [{"role": "user", "content": "hi"}]}
DRAW = {"prompt": "a cat", "seed": 7}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Busan"}}\n</tool_call>'


def png(width: int = 8, height: int = 8, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def worker(
    engine: FakeEngine, settings: VlmSettings | ImageSettings, *, ready: bool = True
) -> Iterator[httpx.Client]:
    app = create_app("fake", settings, engine, nonce="n0nce")
    try:
        with served(app) as url, httpx.Client(base_url=url, timeout=10) as client:
            if ready:
                wait_for(lambda: client.get("/health").status_code == 200)
            yield client
    finally:
        engine.turnstile.set()


def test_a_page_or_a_name_of_a_stranger_gets_nothing_from_a_worker(vlm: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for headers in ({"origin": "http://evil.com"}, {"origin": "null"}, {"host": "evil.com"}):
        answer = vlm.post("/v1/chat/completions", json=chat, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["source"] == "worker"
    assert vlm.get("/health", headers={"host": "evil.com"}).status_code == 403


def blocks_of(stream: str) -> list[str]:
    return [block for block in stream.split("\n\n") if block]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def vlm(engine: FakeEngine) -> Iterator[httpx.Client]:
    with worker(engine, VLM) as client:
        yield client


@pytest.fixture
def painter(engine: FakeEngine) -> Iterator[httpx.Client]:
    with worker(engine, IMAGE) as client:
        yield client


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert body.keys() == {"message", "type", "param", "code", "source"}
    assert body["source"] == "worker"
    assert answer.headers["x-request-id"]
    return body


class TestHealth:
    def test_a_cold_worker_answers_503_with_its_phase_and_nonce(self) -> None:
        engine = FakeEngine(gate=threading.Event())
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "loading")
            answer = client.get("/health")
            health = WorkerHealth.model_validate(answer.json())
            assert answer.status_code == 503
            assert (health.alias, health.nonce, health.detail) == ("fake", "n0nce", "half way")
            refused = client.post("/v1/chat/completions", json=HELLO)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
            assert refused.headers["retry-after"]
            engine.gate.set()
            wait_for(lambda: client.get("/health").status_code == 200)

    def test_health_answers_at_once_while_the_model_works(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.turnstile.clear()
        with vlm.stream("POST", "/v1/chat/completions", json={**HELLO, "stream": True}) as stream:
            assert stream.status_code == 200
            began = time.monotonic()
            health = WorkerHealth.model_validate(vlm.get("/health").json())
            assert time.monotonic() - began < 0.5
            assert (health.phase, health.active_requests, health.jobs) == (Phase.READY, 1, 1)
            engine.turnstile.set()
            stream.read()
        wait_for(lambda: vlm.get("/health").json()["active_requests"] == 0)
        after = WorkerHealth.model_validate(vlm.get("/health").json())
        assert (after.request_count, after.jobs) == (1, 0)
        assert after.progress > health.progress

    def test_a_download_is_told_with_its_bytes(self) -> None:
        download = Download(done_bytes=3, total_bytes=9, bytes_per_second=1.5, eta_seconds=4.0)
        engine = FakeEngine(gate=threading.Event(), download=download)
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "downloading")
            health = WorkerHealth.model_validate(client.get("/health").json())
            assert health.download == download
            engine.gate.set()
            wait_for(lambda: client.get("/health").status_code == 200)
            assert client.get("/health").json()["download"] is None

    def test_a_model_that_failed_to_load_is_never_healthy(self) -> None:
        engine = FakeEngine(load_error=LoadError("models.fake.path: nothing there"))
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "failed")
            answer = client.get("/health")
            assert answer.status_code == 503
            assert answer.json()["detail"] == "models.fake.path: nothing there"
            refused = client.post("/v1/chat/completions", json=HELLO)
            assert "nothing there" in error_of(refused)["message"]


class TestChat:
    def test_a_completion_has_openais_shape(self, vlm: httpx.Client, engine: FakeEngine) -> None:
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

    def test_a_developer_speaks_as_the_system_and_pictures_are_decoded(
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
    def test_a_damaged_picture_is_refused_by_name_before_the_model_sees_it(
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
        engine.refusal = InvalidRequest("too long", code="context_length_exceeded")
        answer = vlm.post("/v1/chat/completions", json={**HELLO, "stream": stream})
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "context_length_exceeded"

    def test_a_failed_generation_is_a_500_that_is_not_worth_a_retry(
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
    def test_what_is_no_request_is_refused(self, vlm: httpx.Client, body: bytes) -> None:
        answer = vlm.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert error_of(answer)["type"] == "invalid_request_error"

    def test_other_methods_and_routes_are_told_as_such(self, vlm: httpx.Client) -> None:
        assert error_of(vlm.get("/v1/chat/completions"))["code"] == "method_not_allowed"
        assert error_of(vlm.get("/nowhere"))["code"] == "not_found"

    def test_a_route_of_the_other_kind_says_what_this_model_serves(self, vlm: httpx.Client) -> None:
        answer = vlm.post("/v1/images/generations", json=DRAW)
        assert answer.status_code == 404
        assert "/v1/chat/completions" in error_of(answer)["message"]


class TestTools:
    def test_a_call_and_its_result_go_round(self, vlm: httpx.Client, engine: FakeEngine) -> None:
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
        _, _, said, told = engine.jobs[1].turns
        assert (said.role, "".join(said.parts)) == ("assistant", f"Let me look.\n{CALL}")
        assert (told.role, "".join(told.parts)) == (
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
    def test_a_schema_that_can_not_be_compiled_is_a_400_before_the_model_sees_it(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "colour"}}}
        fields = {**HELLO, "response_format": form, "stream": stream}
        answer = vlm.post("/v1/chat/completions", json=fields)
        assert answer.status_code == 400
        assert error_of(answer)["param"] == "response_format.json_schema.schema"
        assert "colour" in error_of(answer)["message"]
        assert engine.jobs == []

    def test_a_form_reaches_the_engine_as_a_grammar(
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

    def test_a_picture_is_as_large_as_its_detail_allows(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        assert self.size(vlm, engine) == (1200, 600)
        assert self.size(vlm, engine, detail="high") == (1200, 600)
        assert self.size(vlm, engine, detail="low") == (616, 308)
        assert self.size(vlm, engine, max_pixels=50_000) == (308, 140)

    def test_a_bound_of_the_request_holds_for_all_pictures(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        parts = [
            {"type": "image_url", "image_url": {"url": b64(png(280, 280)), **own}}
            for own in ({}, {"max_pixels": 784}, {"detail": "high"})
        ]
        fields = {"messages": [{"role": "user", "content": parts}], "max_pixels": 4 * 784}
        assert vlm.post("/v1/chat/completions", json=fields).status_code == 200
        assert [part.size for part in engine.jobs[0].turns[0].parts] == [(56, 56), (28, 28), (56, 56)]

    def test_an_analysis_bounds_its_picture_too(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        fields = {"image": b64(png(1200, 600)), "detail": "low"}
        assert vlm.post("/v1/vision/analyze", json=fields).status_code == 200
        assert engine.jobs[0].turns[0].parts[0].size == (616, 308)
        assert engine.jobs[0].skill == "caption"


class TestAnalyze:
    def test_the_prompt_of_the_task_is_asked_greedily(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.words = ["- a red", " star\n", "- a cat"]
        fields = {"image": b64(png()), "task": "objects"}
        body = vlm.post("/v1/vision/analyze", json=fields).json()
        assert body["objects"] == ["a red star", "a cat"]
        assert body["usage"]["latency"] >= 0
        (job,) = engine.jobs
        assert job.sampling.temperature == 0
        assert job.turns[0].parts[1] == "List the objects in this image, one per line."

    def test_a_faulty_image_is_refused_by_name(self, vlm: httpx.Client) -> None:
        answer = vlm.post("/v1/vision/analyze", json={"image": b64(png()[:30])})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "image")


class TestImages:
    def test_a_drawing_has_the_size_and_steps_of_the_settings(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        body = ImagesResponse.model_validate(painter.post("/v1/images/generations", json=DRAW).json())
        assert body.size == "64x32"
        assert (body.usage.seed, body.usage.output_tokens) == (7, 8)
        job: ImageJob = engine.jobs[0]
        assert (job.steps, job.run_steps, job.guidance, job.source) == (4, 4, 0.0, None)
        with Image.open(io.BytesIO(base64.b64decode(body.data[0].b64_json or ""))) as image:
            assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (64, 32), (7, 7, 7))

    def test_n_pictures_have_seeds_one_after_another(self, painter: httpx.Client) -> None:
        body = painter.post("/v1/images/generations", json={**DRAW, "n": 3, "seed": 0}).json()
        shades = []
        for data in body["data"]:
            with Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))) as image:
                shades.append(image.getpixel((0, 0))[0])
        assert shades == [0, 1, 2]

    def test_an_edit_keeps_the_size_and_the_aspect_of_its_source(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 37)), "strength": 0.5, "size": "auto"}
        body = painter.post("/v1/images/edits", json=fields).json()
        job: ImageJob = engine.jobs[0]
        assert job.source is not None
        assert body["size"] == f"{job.width}x{job.height}" == "96x32"
        assert job.source.size == (96, 32)
        assert (job.steps, job.run_steps) == (8, 4)
        assert body["usage"]["input_tokens_details"]["image_tokens"] == 12

    def test_an_explicit_size_of_another_aspect_cuts_the_source(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 50)), "size": "32x32"}
        assert painter.post("/v1/images/edits", json=fields).json()["size"] == "32x32"
        assert engine.jobs[0].source.size == (32, 32)

    def test_without_a_strength_the_default_is_used(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        painter.post("/v1/images/edits", json={**DRAW, "image": b64(png())})
        assert engine.jobs[0].run_steps == 6  # ceil(8 * 0.7)

    def test_strength_0_gives_the_original_back_without_the_model(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        original = png(33, 21, "purple")
        fields = {**DRAW, "image": b64(original), "strength": 0, "n": 2}
        body = painter.post("/v1/images/edits", json=fields).json()
        assert [base64.b64decode(d["b64_json"]) for d in body["data"]] == [original] * 2
        assert body["size"] == "33x21"
        again = painter.post("/v1/images/edits", json={**fields, "output_format": "webp"}).json()
        with Image.open(io.BytesIO(base64.b64decode(again["data"][0]["b64_json"]))) as image:
            assert (image.format, image.size) == ("WEBP", (33, 21))
        assert engine.jobs == []

    @pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
    def test_the_output_format_is_honoured(self, painter: httpx.Client, form: str) -> None:
        fields = {**DRAW, "output_format": form, "output_compression": 50}
        body = painter.post("/v1/images/generations", json=fields).json()
        assert body["output_format"] == form
        with Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))) as image:
            assert (image.format or "").lower() == form

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"size": "8x8"}, "size"),
            ({"size": "big"}, "size"),
            ({"size": "4096x4096"}, "size"),
            ({"negative_prompt": "blurry"}, "negative_prompt"),
            ({"steps": 0}, "steps"),
            ({"seed": -1}, "seed"),
            ({"prompt": ""}, "prompt"),
        ],
    )
    def test_what_is_not_offered_is_refused_by_name(
        self, painter: httpx.Client, engine: FakeEngine, fields: dict[str, Any], param: str
    ) -> None:
        answer = painter.post("/v1/images/generations", json={**DRAW, **fields})
        assert (answer.status_code, error_of(answer)["param"]) == (400, param)
        assert engine.jobs == []

    def test_a_stream_has_a_comment_for_each_step_and_an_event_for_each_picture(
        self, painter: httpx.Client
    ) -> None:
        fields = {**DRAW, "stream": True, "partial_images": 1, "n": 2, "steps": 2}
        blocks = blocks_of(painter.post("/v1/images/generations", json=fields).text)
        kinds = [block.split("\n")[0].partition(", about")[0] for block in blocks]
        partial, whole = (f"event: image_generation.{what}" for what in ("partial_image", "completed"))
        first, second = ([f": step {k} of 2, picture {i} of 2" for k in (1, 2)] for i in (1, 2))
        assert kinds == [
            ": started",
            first[0],
            partial,
            first[1],
            whole,
            second[0],
            partial,
            second[1],
            whole,
        ]
        data = [json.loads(block.split("\ndata: ")[1]) for block in blocks if "data: " in block]
        assert [d["image_index"] for d in data] == [0, 0, 1, 1]
        assert [d["usage"]["seed"] for d in data if "usage" in d] == [7, 8]
        assert all(d["size"] == "64x32" for d in data)
        for d in data:
            with Image.open(io.BytesIO(base64.b64decode(d["b64_json"]))) as image:
                assert image.size == (64, 32)

    def test_a_mask_goes_along_with_its_picture(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        fields = {**DRAW, "image": b64(png(100, 37)), "mask": b64(png(100, 37, "white"))}
        assert painter.post("/v1/images/edits", json=fields).status_code == 200
        job: ImageJob = engine.jobs[0]
        assert job.source is not None
        assert job.mask is not None
        assert job.mask.size == job.source.size == (96, 32)
        assert (job.mask.mode, job.mask.getextrema()) == ("L", (255, 255))
        assert (job.steps, job.run_steps) == (8, 8), "what is marked is to be replaced"

    def test_a_family_that_edits_by_words_is_shown_all_pictures(self, engine: FakeEngine) -> None:
        settings = IMAGE.model_copy(update={"family": "flux2-klein-4b"})
        images = [b64(png(64, 32)), b64(png(5, 40))]
        with worker(engine, settings) as client:
            fields = {**DRAW, "image": images, "size": "32x32"}
            body = client.post("/v1/images/edits", json=fields).json()
            job: ImageJob = engine.jobs[0]
            assert (body["size"], job.source, job.mask) == ("32x32", None, None)
            assert [picture.size for picture in job.references] == [(64, 32), (16, 32)]
            assert job.steps == job.run_steps
            assert body["usage"]["input_tokens_details"]["image_tokens"] == 8 + 2

            masked = {**fields, "image": images[0], "mask": b64(png(64, 32, "white"))}
            client.post("/v1/images/edits", json=masked)
            job = engine.jobs[1]
            assert job.source is not None
            assert job.source.size == job.references[0].size == (32, 32)

            client.post("/v1/images/edits", json={**fields, "image": images[0], "strength": 0.5})
            job = engine.jobs[2]
            assert (job.references, job.run_steps) == ((), 4)

    def test_a_family_that_fills_masks_runs_all_steps_on_source_and_mask(
        self, engine: FakeEngine
    ) -> None:
        settings = IMAGE.model_copy(update={"family": "flux1-fill"})
        with worker(engine, settings) as client:
            fields = {**DRAW, "image": b64(png(64, 32)), "mask": b64(png(64, 32, "white"))}
            assert client.post("/v1/images/edits", json=fields).status_code == 200
        job: ImageJob = engine.jobs[0]
        assert (job.steps, job.run_steps, job.references) == (8, 8, ())
        assert job.source is not None
        assert job.mask is not None

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"image": [b64(png()), b64(png())]}, "image"),
            ({"mask": b64(png(8, 8, "black"))}, "mask"),
            ({"mask": b64(png(8, 4, "white"))}, "mask"),
            ({"mask": b64(b"no picture")}, "mask"),
            ({"mask": b64(png())[:40]}, "mask"),
            ({"image": b64(png()[:30])}, "image"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_faulty_picture_or_mask_is_refused_by_name(
        self,
        painter: httpx.Client,
        engine: FakeEngine,
        fields: dict[str, Any],
        param: str,
        stream: bool,
    ) -> None:
        asked = {**DRAW, "image": b64(png()), "stream": stream, **fields}
        answer = painter.post("/v1/images/edits", json=asked)
        assert (answer.status_code, error_of(answer)["param"]) == (400, param)
        assert engine.jobs == []

    def test_a_picture_holds_what_draws_it_again_unless_the_settings_say_no(
        self, painter: httpx.Client, engine: FakeEngine
    ) -> None:
        def pictures(client: httpx.Client, **fields: Any) -> list[bytes]:
            body = client.post("/v1/images/generations", json={**DRAW, **fields}).json()
            return [base64.b64decode(data["b64_json"]) for data in body["data"]]

        drawn = pictures(painter, n=2)
        recipe = recipe_of(drawn[1])
        assert recipe is not None
        assert (recipe["prompt"], recipe["seed"], recipe["model"]) == ("a cat", 8, "fake")
        assert pictures(painter, **recipe) == drawn[1:]
        with worker(FakeEngine(), IMAGE.model_copy(update={"metadata": False})) as silent:
            assert recipe_of(pictures(silent)[0]) is None

    def test_health_tells_how_far_a_drawing_is(self, painter: httpx.Client, engine: FakeEngine) -> None:
        def drawing() -> Any:
            return painter.get("/health").json()["drawing"]

        assert drawing() is None
        engine.turnstile.clear()
        url = f"{str(painter.base_url).rstrip('/')}/v1/images/generations"
        asking = threading.Thread(
            target=lambda: httpx.post(url, json={**DRAW, "n": 2, "steps": 3}, timeout=10)
        )
        asking.start()
        wait_for(lambda: drawing() is not None)
        seen = WorkerHealth.model_validate(painter.get("/health").json()).drawing
        assert seen is not None
        assert (seen.kind, seen.step, seen.steps) == ("generation", 0, 3)
        assert (seen.picture, seen.pictures) == (1, 2)
        engine.turnstile.set()
        asking.join()
        wait_for(lambda: drawing() is None)

    def test_an_edit_streams_events_of_its_own_name(self, painter: httpx.Client) -> None:
        fields = {**DRAW, "stream": True, "image": b64(png())}
        text = painter.post("/v1/images/edits", json=fields).text
        assert "event: image_edit.completed" in text


class TestModelTime:
    """How long the model took, told in a header of each answer that is not a stream."""

    def test_all_routes_tell_it(self, vlm: httpx.Client, painter: httpx.Client) -> None:
        image = b64(png())
        answers = [
            vlm.post("/v1/chat/completions", json=HELLO),
            vlm.post("/v1/vision/analyze", json={"image": image}),
            painter.post("/v1/images/generations", json=DRAW),
            painter.post("/v1/images/edits", json={**DRAW, "image": [image]}),
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(int(answer.headers["x-vision-model-ms"]) >= 0 for answer in answers)

    def test_it_counts_what_the_model_did(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        engine.turnstile.clear()

        def let_through() -> None:
            engine.working.wait(10)
            time.sleep(0.2)
            engine.turnstile.set()

        threading.Thread(target=let_through).start()
        answer = vlm.post("/v1/chat/completions", json=HELLO)
        assert int(answer.headers["x-vision-model-ms"]) >= 150

    def test_what_needs_no_model_took_none(self, painter: httpx.Client) -> None:
        edit = {"prompt": "x", "image": [b64(png())], "strength": 0}
        answer = painter.post("/v1/images/edits", json=edit)
        assert answer.headers["x-vision-model-ms"] == "0"

    def test_a_stream_has_only_the_log_line(
        self, vlm: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO", logger="workers.endpoint"):
            answer = vlm.post("/v1/chat/completions", json={**HELLO, "stream": True})
            wait_for(lambda: "model_ms=" in caplog.text)
        assert "x-vision-model-ms" not in answer.headers


class TestLeaving:
    """A client that leaves cancels its job at the next token or step."""

    def leave_during(self, client: httpx.Client, engine: FakeEngine, path: str, body: Any) -> None:
        engine.turnstile.clear()
        url = urlsplit(str(client.base_url))
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
            connection.sendall(head.encode() + raw)
            assert engine.working.wait(10)
        assert engine.cancelled.wait(10)
        assert engine.emitted == 0
        wait_for(lambda: client.get("/health").json()["active_requests"] == 0)
        engine.turnstile.set()

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_chat_is_cancelled_and_the_next_request_unharmed(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        self.leave_during(vlm, engine, "/v1/chat/completions", {**HELLO, "stream": stream})
        assert vlm.post("/v1/chat/completions", json=HELLO).status_code == 200

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_drawing_is_cancelled_and_the_next_request_unharmed(
        self, painter: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        self.leave_during(painter, engine, "/v1/images/generations", {**DRAW, "stream": stream})
        assert painter.post("/v1/images/generations", json=DRAW).status_code == 200

    def test_a_log_line_tells_what_happened_and_not_what_was_said(
        self, vlm: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "workers")
        secret = {"messages": [{"role": "user", "content": "my secret"}]}
        vlm.post("/v1/chat/completions", json=secret, headers={"x-request-id": "r-1"})
        wait_for(lambda: "request=r-1" in caplog.text)
        (line,) = [r.getMessage() for r in caplog.records if "r-1" in r.getMessage()]
        assert line.startswith("alias=fake request=r-1 POST /v1/chat/completions status=200 ms=")
        assert line.endswith("prompt_tokens=5 completion_tokens=4")
        assert "secret" not in caplog.text
