"""What each family can be asked for: every row of the table, and every refusal by name."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.capabilities import ROUTES, capabilities, check_generation, edit_way
from contracts.errors import InvalidRequest
from contracts.families import FAMILIES
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest


def draw(**fields: Any) -> ImageGenerationRequest:
    return ImageGenerationRequest.model_validate({"prompt": "p", **fields})


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"prompt": "p", "image": "i", **fields})


def ask(family: str, request: ImageGenerationRequest | ImageEditRequest) -> None:
    if isinstance(request, ImageEditRequest):
        edit_way(request, FAMILIES[family])
    else:
        check_generation(request, FAMILIES[family])


def refused(family: str, request: ImageGenerationRequest | ImageEditRequest) -> str | None:
    """The field that is named; the message names the family."""
    with pytest.raises(InvalidRequest) as caught:
        ask(family, request)
    assert family in caught.value.message
    return caught.value.param


def test_a_family_that_only_edits_is_not_asked_to_draw() -> None:
    for name, family in FAMILIES.items():
        if family.generates:
            check_generation(draw(), family)
        else:
            assert refused(name, draw()) == "model"


@pytest.mark.parametrize(
    ("family", "fields", "way"),
    [
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
    ],
)
def test_an_edit_is_done_as_the_family_can_and_by_strength_when_one_is_asked_for(
    family: str, fields: dict[str, Any], way: str
) -> None:
    assert edit_way(edit(**fields), FAMILIES[family]) == way


@pytest.mark.parametrize(
    ("family", "fields", "param"),
    [
        ("flux1-schnell", {"image": ["a", "b"]}, "image"),
        ("flux1-kontext", {"image": ["a", "b"]}, "image"),
        ("flux2-klein-4b", {"image": ["a"] * 5}, "image"),
        ("flux2-klein-4b", {"image": ["a", "b"], "strength": 0.5}, "image"),
        ("flux1-kontext", {"strength": 0.5}, "strength"),
        ("flux1-kontext", {"strength": 0}, "strength"),
        ("flux1-fill", {"mask": "m", "strength": 0.5}, "strength"),
        ("flux1-fill", {}, "mask"),
        ("flux1-schnell", {"negative_prompt": "blurry"}, "negative_prompt"),
    ],
)
def test_what_the_family_can_not_do_is_refused_with_both_names(
    family: str, fields: dict[str, Any], param: str
) -> None:
    assert refused(family, edit(**fields)) == param


def test_a_negative_prompt_is_refused_where_there_is_none_and_an_empty_one_is_not() -> None:
    for name, family in FAMILIES.items():
        if family.generates and not family.negative_prompt:
            assert refused(name, draw(negative_prompt="blurry")) == "negative_prompt"
            check_generation(draw(negative_prompt=""), family)


def test_capabilities_are_the_table_s_rows() -> None:
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
