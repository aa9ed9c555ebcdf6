"""The capabilities of a model, and the checks that a request needs no others. Pure.

Rules: a request that needs a missing capability is refused, naming the field and the family. The
gateway checks before a model is loaded, the worker before the request reaches the model thread. The
only source is the family's row in ``contracts.families``.
"""

from __future__ import annotations

from typing import Literal

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.families import Family
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest

ROUTES = ("chat", "analyze", "generate", "edit")
# How an edit works: redo the last denoising steps, follow an instruction, or fill a mask.
EditWay = Literal["strength", "instruction", "fill"]


def capabilities(model: VlmSettings | ImageSettings) -> list[str]:
    """The capabilities of *model* as listed in ``/v1/models``: routes first, then options of them."""
    if isinstance(model, VlmSettings):
        return ["chat", "analyze"]
    family = model.traits
    can = {
        "generate": family.generates,
        "edit": family.edits,
        "strength": family.strength_edit,
        "instruction": family.instruction_edit,
        "mask": family.mask != "none",
        "guidance": family.guidance,
        "negative_prompt": family.negative_prompt,
    }
    return [name for name, does in can.items() if does]


def check_generation(request: ImageGenerationRequest, family: Family) -> None:
    """Raise ``InvalidRequest`` if *family* lacks a capability that *request* needs."""
    if not family.generates:
        raise InvalidRequest(
            f"{family.name} models only edit: send an image to /v1/images/edits", param="model"
        )
    _check_negative_prompt(request, family)


def edit_way(request: ImageEditRequest, family: Family) -> EditWay:
    """How *family* does the edit; raises ``InvalidRequest`` if it lacks a needed capability.

    A family that edits by instruction and by strength uses strength if the request has one.
    """
    if not family.edits:
        raise InvalidRequest(f"{family.name} models don't edit", param="model")
    _check_negative_prompt(request, family)
    if request.mask and family.mask == "none":
        raise UnsupportedParameter(f"{family.name} models do not support masks", param="mask")
    if request.strength is not None and not family.strength_edit:
        how = "fill a mask" if family.mask == "native" else "follow the prompt"
        raise UnsupportedParameter(
            f"{family.name} models {how} and do not support strength", param="strength"
        )
    if family.mask == "native":
        if not request.mask:
            raise InvalidRequest(f"{family.name} models fill a mask: send one", param="mask")
        return _of_images(request, family, "fill", 1)
    if family.instruction_edit and request.strength is None:
        return _of_images(request, family, "instruction", family.max_images)
    return _of_images(request, family, "strength", 1)


def _of_images(request: ImageEditRequest, family: Family, way: EditWay, limit: int) -> EditWay:
    sent = len(request.input_images)
    if sent > limit:
        what = f"{family.name} models edit"
        if way == "strength" and family.max_images > 1:
            what = f"with strength, {what}"
        accepted = "one image" if limit == 1 else f"up to {limit} images"
        raise UnsupportedParameter(f"{what} {accepted}; {sent} were sent", param="image")
    return way


def _check_negative_prompt(request: ImageRequest, family: Family) -> None:
    if request.negative_prompt and not family.negative_prompt:
        raise UnsupportedParameter(
            f"{family.name} models do not support negative prompts", param="negative_prompt"
        )
