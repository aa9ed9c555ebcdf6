"""What the families of image models can do, as requests, routes and ``/v1/models`` see it. Pure.

Rules: a request that asks for what the model's family can't do is refused with the names of the field
and of the family: by the gateway, before anything is loaded for it, and by the worker, before the model
thread sees it. One family's table row (``contracts.families``) is all that decides.
"""

from __future__ import annotations

from typing import Literal

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.families import Family
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest

ROUTES = ("chat", "analyze", "generate", "edit")  # what a model can be asked for
# How an edit is done: the last steps of a drawing, by words, or into a mask.
EditWay = Literal["strength", "instruction", "fill"]


def capabilities(model: VlmSettings | ImageSettings) -> list[str]:
    """What *model* can do: its routes first (chat, analyze, generate, edit), then how it can."""
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
    """Raise ``InvalidRequest`` for what *family* can't do."""
    if not family.generates:
        raise InvalidRequest(
            f"{family.name} models only edit: send a picture to /v1/images/edits", param="model"
        )
    _check_negative_prompt(request, family)


def edit_way(request: ImageEditRequest, family: Family) -> EditWay:
    """How *family* does the edit; raises ``InvalidRequest`` for what it can't do.

    A family that edits by words and by strength does the latter when the request has a ``strength``.
    """
    if not family.edits:
        raise InvalidRequest(f"{family.name} models don't edit", param="model")
    _check_negative_prompt(request, family)
    if request.mask and family.mask == "none":
        raise UnsupportedParameter(f"{family.name} models take no mask", param="mask")
    if request.strength is not None and not family.strength_edit:
        how = "fill a mask" if family.mask == "native" else "edit by what the prompt says"
        raise UnsupportedParameter(f"{family.name} models {how} and know no strength", param="strength")
    if family.mask == "native":
        if not request.mask:
            raise InvalidRequest(f"{family.name} models fill a mask: send one", param="mask")
        return _of_images(request, family, "fill", 1)
    if family.instruction_edit and request.strength is None:
        return _of_images(request, family, "instruction", family.max_images)
    return _of_images(request, family, "strength", 1)


def _of_images(request: ImageEditRequest, family: Family, way: EditWay, most: int) -> EditWay:
    sent = len(request.pictures)
    if sent > most:
        models = f"{family.name} models"
        if way == "strength" and family.max_images > 1:
            models += ", asked with a strength,"
        takes = "one image" if most == 1 else f"up to {most} images"
        raise UnsupportedParameter(f"{models} edit {takes}; {sent} were sent", param="image")
    return way


def _check_negative_prompt(request: ImageRequest, family: Family) -> None:
    if request.negative_prompt and not family.negative_prompt:
        raise UnsupportedParameter(
            f"{family.name} models know no negative prompt", param="negative_prompt"
        )
