"""What a request must be before it is sent on: pure functions from a body to a ``Checked``.

Rules: everything that can be known without the model is refused here, with the field's name, so that
bad input costs no load. The body that goes on is the body that came, byte for byte; only a multipart
form becomes JSON, because workers speak JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts import abilities
from contracts.errors import InvalidRequest
from contracts.media import parse_size, read_image_field, require_image
from contracts.openai import (
    AnalyzeRequest,
    ChatRequest,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageRequest,
    parse_form,
    parse_json,
)
from contracts.settings import Settings
from contracts.settings_models import ImageSettings
from gateway.routing import choose_model

_IMAGE_FIELD = re.compile(r"image(\[\d*\])?")  # image, image[], image[0]: the SDKs differ

_NESTED = re.compile(r"(\w+)\[")  # svg[reasoning][effort]


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that may be sent: to which alias, its JSON body, and what it says to the manager."""

    alias: str
    body: bytes
    keep_alive: float | None  # seconds, see ``contracts.openai.KeepAlive``
    wants_urls: bool = False  # in place of the pictures in the answer


def check_chat(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ChatRequest, body)
    alias, _ = choose_model(settings, "chat", request.model)
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            if part.type == "image_url" and part.image_url is not None:
                read_image_field(part.image_url.url, f"messages[{i}].content[{j}].image_url.url")
    return Checked(alias, body, request.keep_alive)


def check_analyze(settings: Settings, body: bytes) -> Checked:
    request = parse_json(AnalyzeRequest, body)
    alias, _ = choose_model(settings, "analyze", request.model)
    read_image_field(request.image, "image")
    return Checked(alias, body, request.keep_alive)


def check_generation(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageGenerationRequest, body)
    alias, model = _painter(settings, "generate", request)
    abilities.check_generation(request, model.traits)
    return _checked(request, alias, body)


def check_edit(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageEditRequest, body)
    alias = _check_edit(settings, request)
    for image in request.image:
        read_image_field(image, "image")
    if request.mask:
        read_image_field(request.mask, "mask")
    return _checked(request, alias, body)


def check_edit_form(settings: Settings, fields: Sequence[tuple[str, str | bytes]]) -> Checked:
    """A multipart form's *fields* in their order: text as str, files as bytes."""
    request = parse_form(ImageEditRequest, _as_json_fields(fields))
    alias = _check_edit(settings, request)
    return _checked(request, alias, request.model_dump_json(exclude_none=True).encode())


def _check_edit(settings: Settings, request: ImageEditRequest) -> str:
    alias, model = _painter(settings, "edit", request)
    abilities.edit_way(request, model.traits)
    return alias


def _painter(settings: Settings, route: str, request: ImageRequest) -> tuple[str, ImageSettings]:
    """The image model that serves the request; raises for a size that it does not draw."""
    alias, model = choose_model(settings, route, request.model)
    assert isinstance(model, ImageSettings)  # nothing else can do these routes
    if request.size not in (None, "", "auto"):
        parse_size(str(request.size), max_pixels=model.max_pixels)
    return alias, model


def _checked(request: ImageRequest, alias: str, body: bytes) -> Checked:
    return Checked(alias, body, request.keep_alive, request.response_format == "url")


def _as_json_fields(fields: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
    images: list[str] = []
    scalars: dict[str, Any] = {}
    for name, value in fields:
        if _IMAGE_FIELD.fullmatch(name):
            images.append(_as_base64(value, "image"))
        elif name == "mask" and value:
            scalars["mask"] = _as_base64(value, "mask")
        elif nested := _NESTED.match(name):
            if nested[1] in ImageEditRequest.model_fields:
                raise InvalidRequest(f"{nested[1]} has no parts", param=name)
            scalars[nested[1]] = name  # of a field that is not offered, or not known
        elif isinstance(value, bytes):
            scalars[name] = base64.b64encode(value).decode()
        elif value != "":  # an empty text field is what a form sends for "not given"
            scalars[name] = value
    if images:
        scalars["image"] = images
    return scalars


def _as_base64(value: str | bytes, param: str) -> str:
    if isinstance(value, str):
        read_image_field(value, param)
        return value
    require_image(value, param)
    return base64.b64encode(value).decode()
