"""The main use through all three tiers, with real models: generate, edit, chat, analyze."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from demo.judge import check_caption
from testkit.images import (
    GREEN_STAR,
    RED_CIRCLE,
    RED_CIRCLE_CAPTION,
    WORD,
    as_base64,
    ask,
    opened,
    png,
)

pytestmark = [pytest.mark.process, pytest.mark.mlx]


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


@pytest.mark.smoke
def test_a_generated_image_matches_its_prompt(http: httpx.Client) -> None:
    body = post(http, "/v1/images/generations", {"prompt": RED_CIRCLE_CAPTION, "seed": 0})
    (data,) = body["data"]
    image = opened(data["b64_json"])
    assert image.size == (128, 128)
    assert check_caption(image, RED_CIRCLE_CAPTION).right
    assert data["revised_prompt"] == RED_CIRCLE_CAPTION
    assert body["usage"]["seed"] == 0
    assert body["usage"]["latency"] > 0


@pytest.mark.smoke
def test_an_edit_recolours_in_place(http: httpx.Client) -> None:
    goal = "a green circle on a blue background"
    body = {"prompt": goal, "image": as_base64(RED_CIRCLE), "strength": 0.5, "seed": 1}
    edited = opened(post(http, "/v1/images/edits", body)["data"][0]["b64_json"])
    verdict = check_caption(edited, goal)
    assert verdict.right, verdict
    (circle,) = verdict.observed.objects
    assert abs(circle.cx - 0.5) < 0.05
    assert abs(circle.cy - 0.5) < 0.05


def test_an_edit_as_a_form_gives_the_same_image(http: httpx.Client) -> None:
    fields = {
        "prompt": "a green circle on a blue background",
        "strength": "0.5",
        "seed": "1",
        "steps": "2",
    }
    form = http.post("/v1/images/edits", data=fields, files={"image": png(RED_CIRCLE)})
    assert form.status_code == 200, form.text
    body = {**fields, "strength": 0.5, "seed": 1, "steps": 2, "image": as_base64(RED_CIRCLE)}
    assert form.json()["data"] == post(http, "/v1/images/edits", body)["data"]


@pytest.mark.smoke
def test_the_answers_about_an_image_are_true(http: httpx.Client) -> None:
    def analyze(task: str, scene: Any, **fields: Any) -> Any:
        body = {"image": as_base64(scene), "task": task, **fields}
        return post(http, "/v1/vision/analyze", body)

    caption = analyze("caption", RED_CIRCLE)
    assert caption["result"] == RED_CIRCLE_CAPTION
    assert (caption["task"], caption["model"]) == ("caption", "vlm-best")
    usage = caption["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert usage["latency"] > 0
    assert analyze("ocr", WORD)["result"] == "CAT42"
    assert analyze("objects", GREEN_STAR)["objects"] == ["green star"]
    assert "green star" in analyze("describe", GREEN_STAR)["result"]
    assert "yellow" in analyze("analyze", GREEN_STAR)["result"]
    custom = analyze("custom", GREEN_STAR, prompt="What color is the background?")
    assert custom["result"] == "yellow"


def test_moondream_captions_correctly_too(http: httpx.Client) -> None:
    body = {"image": as_base64(GREEN_STAR), "model": "vlm-fast"}
    assert post(http, "/v1/vision/analyze", body)["result"] == "a green star on a yellow background"


@pytest.mark.smoke
def test_a_chat_about_an_image_in_korean(http: httpx.Client) -> None:
    body = post(http, "/v1/chat/completions", ask(RED_CIRCLE, "이 이미지에 뭐가 있어?"))
    choice = body["choices"][0]
    assert choice["message"]["content"] == "파란 배경에 빨간 원"
    assert choice["finish_reason"] == "stop"
    assert body["model"] == "vlm-best"


def test_a_second_turn_still_sees_the_image_of_the_first(http: httpx.Client) -> None:
    request = ask(GREEN_STAR, "Caption this image.")
    request["messages"] += [
        {"role": "assistant", "content": "a green star on a yellow background"},
        {"role": "user", "content": "What color is the background?"},
    ]
    body = post(http, "/v1/chat/completions", request)
    assert body["choices"][0]["message"]["content"] == "yellow"


def test_a_stop_string_and_a_token_limit_end_a_completion(http: httpx.Client) -> None:
    request = ask(RED_CIRCLE, "Caption this image.")
    stopped = post(http, "/v1/chat/completions", {**request, "stop": " on"})["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("a red circle", "stop")
    cut = post(http, "/v1/chat/completions", {**request, "max_tokens": 3})
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 3


def test_errors_that_only_the_worker_can_detect_are_400_with_the_parameter(http: httpx.Client) -> None:
    cases: dict[str, tuple[str, dict[str, Any], str]] = {
        "beyond the model": ("/v1/images/generations", {"prompt": "x", "size": "512x512"}, "size"),
        "not offered": (
            "/v1/images/generations",
            {"prompt": "x", "negative_prompt": "y"},
            "negative_prompt",
        ),
        "cut image to edit": (
            "/v1/images/edits",
            {"prompt": "x", "image": as_base64(WORD)[:400]},
            "image",
        ),
        "cut image to analyze": ("/v1/vision/analyze", {"image": as_base64(WORD)[:400]}, "image"),
        "beyond the context": ("/v1/chat/completions", ask(WORD, "x" * 40_000), "messages"),
    }
    for what, (path, body, param) in cases.items():
        answer = http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), what
