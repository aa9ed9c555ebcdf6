"""What a request must be before it is sent on: pure functions from a body to a ``Checked``.

Rules: everything that can be known without the model is refused here, with the field's name, so that
bad input costs no load. The body that goes on is the body that came, byte for byte; only a multipart
form becomes JSON, because workers speak JSON. (Requests for responses: ``gateway.responses``.)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts import capabilities
from contracts.errors import InvalidRequest
from contracts.media import parse_size, require_image
from contracts.settings import Settings
from contracts.settings.models import ImageSettings
from contracts.wire.openai import (
    AnalyzeRequest,
    ChatRequest,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageRequest,
    parse_form,
    parse_json,
)
from gateway.images_in.inputs import Inputs, Link
from gateway.response_rewrite import Rewrite
from gateway.routing import choose_model
from gateway.unknown import unknown

_IMAGE_FIELD = re.compile(r"image(\[\d*\])?")  # image, image[], image[0]: the SDKs differ

_LOGGED = 500  # characters of a prompt

_NESTED = re.compile(r"(\w+)\[")  # svg[reasoning][effort]


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that may be sent: to which alias, its JSON body, and what it says to the manager.

    ``links``: the pictures that must be fetched, and put into the body, before it is sent.
    """

    alias: str
    body: bytes
    keep_alive: float | None  # seconds, see ``contracts.wire.openai.KeepAlive``
    stream: bool = False  # the answer is asked for as events
    wants_urls: bool = False  # in place of the pictures in the answer
    rewrite: Rewrite | None = None  # what else becomes of the answer
    links: tuple[Link, ...] = ()
    prompt: str = ""  # its beginning, for a log that is to hold it
    unknown: tuple[str, ...] = ()  # names of fields


def check_chat(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ChatRequest, body)
    alias, _ = choose_model(settings, "chat", request.model)
    pictures = Inputs(settings.images, "messages")
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            if part.image_url is not None:
                name = f"messages[{i}].content[{j}].image_url.url"
                at = ("messages", i, "content", j, "image_url", "url")
                pictures.check(part.image_url.url, name, at)
    return Checked(
        alias,
        body,
        request.keep_alive,
        stream=bool(request.stream),
        links=pictures.links,
        prompt=_logged(settings, request.messages[-1].words),
        unknown=unknown(request.model_extra or ()),
    )


def check_analyze(settings: Settings, body: bytes) -> Checked:
    request = parse_json(AnalyzeRequest, body)
    alias, _ = choose_model(settings, "analyze", request.model)
    pictures = Inputs(settings.images, "image")
    pictures.check(request.image, "image", ("image",))
    prompt = _logged(settings, request.question)
    return Checked(
        alias,
        body,
        request.keep_alive,
        links=pictures.links,
        prompt=prompt,
        unknown=unknown(request.model_extra or ()),
    )


def check_generation(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageGenerationRequest, body)
    alias, model = _painter(settings, "generate", request)
    capabilities.check_generation(request, model.traits)
    return _checked(settings, request, alias, body)


def check_edit(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageEditRequest, body)
    return _check_edit(settings, request, body)


def check_edit_form(settings: Settings, fields: Sequence[tuple[str, str | bytes]]) -> Checked:
    """A multipart form's *fields* in their order: text as str, files as bytes."""
    max_mb = settings.images.max_mb
    request = parse_form(ImageEditRequest, _as_json_fields(fields, max_mb))
    return _check_edit(settings, request, request.model_dump_json(exclude_none=True).encode())


def _check_edit(settings: Settings, request: ImageEditRequest, body: bytes) -> Checked:
    alias, model = _painter(settings, "edit", request)
    capabilities.edit_way(request, model.traits)
    pictures = Inputs(settings.images, "image")
    for i, (name, text) in enumerate(request.pictures):
        at = ("image", i) if request.images is None else ("images", i, "image_url")
        pictures.check(text, name, at)
    if request.mask:
        pictures.check(request.mask, "mask", ("mask",))
    return replace(_checked(settings, request, alias, body), links=pictures.links)


def _painter(settings: Settings, route: str, request: ImageRequest) -> tuple[str, ImageSettings]:
    """The image model that serves the request; raises for a size that it does not draw."""
    alias, model = choose_model(settings, route, request.model)
    assert isinstance(model, ImageSettings)  # nothing else can do these routes
    if request.size not in (None, "", "auto"):
        parse_size(str(request.size), max_pixels=model.max_pixels)
    return alias, model


def _checked(settings: Settings, request: ImageRequest, alias: str, body: bytes) -> Checked:
    return Checked(
        alias,
        body,
        request.keep_alive,
        stream=bool(request.stream),
        wants_urls=request.response_format == "url",
        prompt=_logged(settings, request.prompt),
        unknown=unknown(request.model_extra or ()),
    )


def _logged(settings: Settings, prompt: str) -> str:
    return prompt[:_LOGGED] if settings.logs.prompts else ""


def _as_json_fields(fields: Sequence[tuple[str, str | bytes]], max_mb: int) -> dict[str, Any]:
    images: list[str] = []
    scalars: dict[str, Any] = {}
    for name, value in fields:
        if _IMAGE_FIELD.fullmatch(name):
            images.append(_as_text(value, "image", max_mb))
        elif name == "mask" and value:
            scalars["mask"] = _as_text(value, "mask", max_mb)
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


def _as_text(value: str | bytes, param: str, max_mb: int) -> str:
    """A picture of a form as JSON has it; what came as text is looked into later."""
    if isinstance(value, str):
        return value
    require_image(value, param, max_mb=max_mb)
    return base64.b64encode(value).decode()
