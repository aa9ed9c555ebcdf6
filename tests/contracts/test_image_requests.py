"""Requests for image generation, edits and analysis: strict types, errors that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire import parse_form, parse_json
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest
from demo import world


def generation(**fields: Any) -> ImageGenerationRequest:
    return parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())


INVALID_GENERATIONS: list[Any] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"n": 11}, "n"),
    ({"steps": 0}, "steps"),
    ({"steps": 4.5}, "steps"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"guidance": float("inf")}, "guidance"),
    ({"output_format": "gif"}, "output_format"),
    ({"partial_images": 4}, "partial_images"),
    ({"size": 512}, "size"),
]


def test_an_invalid_generation_names_the_field() -> None:
    for fields, param in INVALID_GENERATIONS:
        with pytest.raises(InvalidRequest) as caught:
            generation(**fields)
        assert caught.value.param == param


SEEDS = [0, 2**63, 2**64 - 1]


def test_every_64_bit_seed_is_a_seed() -> None:
    for seed in SEEDS:
        assert generation(seed=seed).seed == seed


UNSUPPORTED_GENERATIONS: list[Any] = [
    {"background": "transparent"},
    {"response_format": "url", "stream": True},
    {"svg": {"model": "x"}},
    {"markup": "iVBO"},
    {"frame_count": 4},
    {"frame_duration_ms": 100},
]


def test_an_unsupported_generation_feature_is_refused_with_its_field() -> None:
    for fields in UNSUPPORTED_GENERATIONS:
        with pytest.raises(UnsupportedParameter) as caught:
            parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())
        assert caught.value.param in fields


def test_partial_images_require_a_stream() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(ImageGenerationRequest, b'{"prompt": "p", "partial_images": 2}')
    assert caught.value.param == "partial_images"
    parse_json(ImageGenerationRequest, b'{"prompt": "p", "partial_images": 0}')


IGNORED_FIELDS: list[Any] = [
    {"moderation": "low"},
    {"style": "vivid"},
    {"user": "me"},
    {"safety_identifier": "x"},
    {"complexity": "high"},
    {"svg": None},
    {"response_format": "url"},
    {"background": "opaque"},
]


def test_generation_fields_without_effect_are_accepted() -> None:
    for fields in IGNORED_FIELDS:
        parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())


def test_a_form_can_contain_images_and_a_mask() -> None:
    base = {"prompt": "p", "image": "x", "input_fidelity": "high"}
    assert parse_form(ImageEditRequest, base).image == ["x"]
    form = parse_form(ImageEditRequest, {**base, "image": ["x", "y"], "mask": "z"})
    assert (form.image, form.mask) == (["x", "y"], "z")


INVALID_STRENGTHS: list[Any] = [-0.1, 1.1, float("nan"), "much"]


def test_strength_must_be_between_0_and_1() -> None:
    for strength in INVALID_STRENGTHS:
        with pytest.raises(InvalidRequest) as caught:
            parse_form(ImageEditRequest, {"prompt": "p", "image": "x", "strength": strength})
        assert caught.value.param == "strength"


def test_numbers_in_forms_are_text_and_in_json_are_not() -> None:
    form = parse_form(ImageEditRequest, {"prompt": "p", "image": "x", "n": "2", "stream": "true"})
    assert (form.n, form.stream) == (2, True)
    with pytest.raises(InvalidRequest):
        generation(n="2")


def analyze(**fields: Any) -> AnalyzeRequest:
    return parse_json(AnalyzeRequest, json.dumps({"image": "x", **fields}).encode())


def test_analyze_defaults_to_a_caption_with_at_most_512_tokens() -> None:
    request = analyze()
    assert (request.task, request.max_tokens, request.question) == (
        DEFAULT_TASK,
        512,
        TASKS["caption"].prompt,
    )


INVALID_ANALYSES: list[Any] = [
    ({"task": "sing"}, "task"),
    ({"task": "custom"}, "prompt"),
    ({"prompt": "why?"}, "prompt"),
]


def test_only_the_custom_task_has_a_prompt() -> None:
    for fields, param in INVALID_ANALYSES:
        with pytest.raises(InvalidRequest) as caught:
            analyze(**fields)
        assert caught.value.param == param
        assert analyze(task="custom", prompt="why?").question == "why?"


def test_the_prompts_of_the_tasks_are_those_of_the_demo_models() -> None:
    for name, task in TASKS.items():
        if name != "custom":
            assert task.prompt == world.TASKS[name].prompts[0]
