"""Completions and images with the real tokenizers, from models that are small enough for a CPU."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from testkit import plain
from testkit.images import RED_CIRCLE, as_data_uri, opened, png
from tests.rehearsal import image_models, qwen25
from tests.rehearsal.hub import Files
from tests.rehearsal.running import Running, chat_body, error_of, error_or_usage
from tests.rehearsal.scenario import scenario
from tests.rehearsal.stage import Stage
from tests.rehearsal.synthetic import Weights

CITIES = ["Seoul", "Rome", "Reykjavík"]
_CITY = {
    "type": "object",
    "properties": {"city": {"enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": _CITY},
}
OTHER = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}


@scenario("answers", "config.yaml, vlm-best with the real tokenizer: texts, images, tools, JSON")
def answers(stage: Stage) -> None:
    config = stage.config("config.yaml")
    stage.publish(config, "vlm-best", qwen25.repository(qwen25.SMALL, stage.packages))
    with stage.stack(config) as running:
        text = running.chat("vlm-best", max_tokens=8)
        stage.check("a text prompt is completed", text.status_code == 200, error_or_usage(text))
        image = running.chat("vlm-best", image=as_data_uri(RED_CIRCLE))
        more = _prompt_tokens(image) - _prompt_tokens(text)
        stage.check(
            "an image adds prompt tokens",
            more >= 16,
            f"{error_or_usage(image)}, {more} more than a text",
        )
        _check_stream(stage, running)
        _check_calls(stage, running)
        _check_json(stage, running)


def _prompt_tokens(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens"]) if answer.status_code == 200 else 0


def _check_stream(stage: Stage, running: Running) -> None:
    body = {**chat_body("vlm-best", "고양이 🐈 이야기", max_tokens=8), "stream": True}
    url = f"{running.stack.url}/v1/chat/completions"
    with plain.stream("POST", url, json=body, headers=running.stack.headers, timeout=300) as answer:
        lines = [line for line in answer.iter_lines() if line]
    broken = [line for line in lines if "\ufffd" in line and "error" in line]
    stage.check(
        "a stream ends correctly", lines[-1] == "data: [DONE]" and not broken, f"{len(lines)} events"
    )


def _check_calls(stage: Stage, running: Running) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for what, choice in (("any", "required"), ("a named", named)):
        answer = running.chat(
            "vlm-best",
            text="What is the weather?",
            tools=[TOOL, OTHER],
            tool_choice=choice,
            max_tokens=200,
        )
        held, words = _called(answer, {"get_weather", "get_time"} if what == "any" else {"get_weather"})
        stage.check(f"{what} function can be required", held, words)
    json_format = {
        "type": "json_schema",
        "json_schema": {"name": "city", "strict": True, "schema": _CITY},
    }
    answer = running.chat("vlm-best", tools=[TOOL], response_format=json_format, max_tokens=200)
    stage.check(
        "tools and a JSON schema can be combined", answer.status_code == 200, error_or_usage(answer)
    )


def _called(answer: httpx.Response, names: set[str]) -> tuple[bool, str]:
    if answer.status_code != 200:
        return False, f"{answer.status_code} {error_of(answer)}"
    choice = answer.json()["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    called = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    fine = bool(called) and all(
        name in names and (name != "get_weather" or json.loads(arguments)["city"] in CITIES)
        for name, arguments in called
    )
    return fine and choice["finish_reason"] == "tool_calls", f"{called[:2]} {choice['finish_reason']}"


def _check_json(stage: Stage, running: Running) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog", "새"]},
            "city": {"enum": CITIES},
            "indoors": {"type": "boolean"},
        },
        "required": ["kind", "city", "indoors"],
        "additionalProperties": False,
    }
    json_format = {
        "type": "json_schema",
        "json_schema": {"name": "pet", "strict": True, "schema": schema},
    }
    answer = running.chat("vlm-best", response_format=json_format, max_tokens=100)
    content = ""
    if answer.status_code == 200:
        content = answer.json()["choices"][0]["message"]["content"]
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = {}
    held = set(parsed) == {"kind", "city", "indoors"} and parsed["city"] in CITIES
    stage.check("a completion follows a JSON schema", held, content or error_or_usage(answer))


@scenario("sees", "config.yaml, vlm-fast with few layers: an image, and the context of 2048 tokens")
def sees(stage: Stage) -> None:
    config = stage.config("config.yaml")
    stage.publish_moondream(config, text_layers=1, vision_layers=1)
    with stage.stack(config) as running:
        image = running.chat("vlm-fast", image=as_data_uri(RED_CIRCLE), max_tokens=1)
        tokens = _prompt_tokens(image)
        stage.check("an image adds prompt tokens", tokens > 729, error_or_usage(image))
        body = {
            "model": "vlm-fast",
            "image": as_data_uri(RED_CIRCLE),
            "task": "caption",
            "max_tokens": 1,
        }
        caption = running.post("/v1/vision/analyze", body)
        stage.check("an image is captioned", caption.status_code == 200, error_or_usage(caption))
        long = running.chat("vlm-fast", text="q7 " * 1200)
        refused = long.status_code == 400 and "2048" in error_of(long)
        stage.check("a prompt longer than 2048 tokens is refused", refused, error_or_usage(long))


@scenario(
    "generates", "config.yaml, image-gen with one block of each kind: an image, an edit", memory=6
)
def generates(stage: Stage) -> None:
    folder = materialize(stage, image_models.schnell(stage.packages, small=True))
    _generates(stage, stage.config("config.yaml", {"models.image-gen.path": str(folder)}))


@scenario("generates-16gb", "config.16gb.yaml, image-gen with few layers: an image, an edit", memory=6)
def generates_16gb(stage: Stage) -> None:
    folder = materialize(stage, image_models.klein(stage.packages, overrides=image_models.TINY_KLEIN))
    _generates(stage, stage.config("config.16gb.yaml", {"models.image-gen.path": str(folder)}))


def materialize(stage: Stage, files: Files) -> Path:
    """Write *files* to a folder, because a ``tiny.json`` is never downloaded."""
    folder = stage.folder / "model"
    for name, blob in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(blob, Weights):
            blob.write(file)
        else:
            file.write_bytes(b"".join(blob.pieces()))
    return folder


def _generates(stage: Stage, config: Path) -> None:
    # The path itself is specific to this machine.
    stage.outcome.changes = [f"{config.name}: models.image-gen.path is a folder with a tiny.json"]
    body = {"model": "image-gen", "prompt": "a red circle", "size": "64x64", "steps": 1, "seed": 7}
    body["response_format"] = "b64_json"
    with stage.stack(config) as running:
        generated = running.post("/v1/images/generations", body)
        stage.check("an image is generated", *_image(generated))
        source = base64.b64encode(png(RED_CIRCLE, 64)).decode()
        edited = running.post("/v1/images/edits", {**body, "image": source})
        stage.check("an image is edited", *_image(edited))
        again = running.post("/v1/images/generations", body)
        stage.check("the same seed gives the same image", _pixels(again) == _pixels(generated) != b"")


def _image(answer: httpx.Response) -> tuple[bool, str]:
    if answer.status_code != 200:
        return False, f"{answer.status_code} {error_of(answer)}"
    image = opened(answer.json()["data"][0]["b64_json"]).convert("RGB")
    colours = len(set(image.getdata()))
    return image.size == (64, 64) and colours > 1, f"{image.size}, {colours} colours"


def _pixels(answer: httpx.Response) -> bytes:
    if answer.status_code != 200:
        return b""
    data: Mapping[str, Any] = answer.json()["data"][0]
    return bytes(opened(data["b64_json"]).convert("RGB").tobytes())
