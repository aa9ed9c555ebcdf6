"""Each family's capabilities, and the refusals of requests that need others."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.capabilities import ROUTES, capabilities, check_generation, edit_way
from contracts.errors import InvalidRequest
from contracts.families import FAMILIES
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest


def generation(**fields: Any) -> ImageGenerationRequest:
    return ImageGenerationRequest.model_validate({"prompt": "p", **fields})


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"prompt": "p", "image": "i", **fields})


def ask(family: str, request: ImageGenerationRequest | ImageEditRequest) -> None:
    if isinstance(request, ImageEditRequest):
        edit_way(request, FAMILIES[family])
    else:
        check_generation(request, FAMILIES[family])


def refused(family: str, request: ImageGenerationRequest | ImageEditRequest) -> str | None:
    """The field named by the refusal, whose message names the family."""
    with pytest.raises(InvalidRequest) as caught:
        ask(family, request)
    assert family in caught.value.message
    return caught.value.param


def test_a_family_that_only_edits_refuses_generation() -> None:
    for name, family in FAMILIES.items():
        if family.generates:
            check_generation(generation(), family)
        else:
            assert refused(name, generation()) == "model"


EDITS: list[Any] = [
    ("flux1-schnell", {}, "strength"),
    ("flux1-schnell", {"mask": "m"}, "strength"),
    ("flux1-kontext", {}, "instruction"),
    ("flux1-kontext", {"mask": "m"}, "instruction"),
    ("flux1-fill", {"mask": "m"}, "fill"),
    ("flux2-klein-4b", {}, "instruction"),
    ("flux2-klein-4b", {"image": ["a", "b", "c", "d"]}, "instruction"),
    ("flux2-klein-4b", {"strength": 0.5}, "strength"),
    ("flux2-klein-4b", {"strength": 0}, "strength"),
    ("z-image-turbo", {}, "strength"),
]


def test_the_family_decides_how_an_edit_works_and_a_strength_selects_editing_by_strength() -> None:
    for family, fields, way in EDITS:
        assert edit_way(edit(**fields), FAMILIES[family]) == way


REFUSALS: list[Any] = [
    ("flux1-schnell", {"image": ["a", "b"]}, "image"),
    ("flux1-kontext", {"image": ["a", "b"]}, "image"),
    ("flux2-klein-4b", {"image": ["a"] * 5}, "image"),
    ("flux2-klein-4b", {"image": ["a", "b"], "strength": 0.5}, "image"),
    ("flux1-kontext", {"strength": 0.5}, "strength"),
    ("flux1-kontext", {"strength": 0}, "strength"),
    ("flux1-fill", {"mask": "m", "strength": 0.5}, "strength"),
    ("flux1-fill", {}, "mask"),
    ("flux1-schnell", {"negative_prompt": "blurry"}, "negative_prompt"),
]


def test_a_missing_capability_is_refused_with_the_names_of_field_and_family() -> None:
    for family, fields, param in REFUSALS:
        assert refused(family, edit(**fields)) == param


def test_an_unsupported_negative_prompt_is_refused_unless_it_is_empty() -> None:
    for name, family in FAMILIES.items():
        if family.generates and not family.negative_prompt:
            assert refused(name, generation(negative_prompt="blurry")) == "negative_prompt"
            check_generation(generation(negative_prompt=""), family)


def test_capabilities_come_from_the_table_of_families() -> None:
    base = {"path": "x", "port": 1, "memory_gb": 1.0}

    def of(family: str) -> list[str]:
        fields = {"kind": "image", "family": family, **base}
        return capabilities(ImageSettings.model_validate(fields))

    assert of("flux1-schnell") == ["generate", "edit", "strength", "mask"]
    assert of("flux1-kontext") == ["edit", "instruction", "mask", "guidance"]
    assert of("flux1-fill") == ["edit", "mask", "guidance"]
    assert of("flux2-klein-4b") == ["generate", "edit", "strength", "instruction", "mask"]
    vlm = VlmSettings.model_validate({"kind": "vlm", **base})
    assert capabilities(vlm) == ["chat", "analyze"]
    assert all(set(of(family)) & set(ROUTES) for family in FAMILIES)
