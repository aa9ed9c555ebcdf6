"""Checks a request before it is sent on: pure functions from a body to a ``Checked``.

Rules: everything that can be known without the model is refused here, with the field's name, so that
bad input loads no model. The body is forwarded byte for byte; only a multipart form becomes JSON,
because workers accept JSON. (Responses API requests: ``gateway.responses``.)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json

from contracts import capabilities
from contracts.errors import InvalidRequest
from contracts.media import parse_size, require_image
from contracts.settings import Settings
from contracts.settings.models import ImageSettings
from contracts.wire import parse_form, parse_json
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.chat import ChatRequest
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest
from gateway.images_in.inputs import ImageInputs, LinkedImage
from gateway.response_rewrite import Rewrite
from gateway.routing import choose_model

_IMAGE_FIELD = re.compile(r"image(\[\d*\])?")  # image, image[] or image[0], depending on the SDK

_PLACEHOLDER = "-"
_LOGGED = 500  # characters of a prompt that the log may hold

_NESTED = re.compile(r"(\w+)\[")  # svg[reasoning][effort]


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that may be sent: its alias, its JSON body, and what the manager needs to know.

    ``linked_images``: the images to fetch and put into the body before it is sent.
    """

    alias: str
    body: bytes
    keep_alive: float | None  # seconds, see ``contracts.wire.KeepAlive``
    stream: bool = False  # the client requested server-sent events
    wants_urls: bool = False  # instead of images in the response
    rewrite: Rewrite | None = None  # another rewrite of the response
    linked_images: tuple[LinkedImage, ...] = ()
    prompt: str = ""  # beginning of the prompt, if the log may hold it


def check_chat(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ChatRequest, body)
    alias, _ = choose_model(settings, "chat", request.model)
    images = ImageInputs(settings.images, "messages")
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            if part.image_url is not None:
                name = f"messages[{i}].content[{j}].image_url.url"
                at = ("messages", i, "content", j, "image_url", "url")
                images.check(part.image_url.url, name, at)
    return Checked(
        alias,
        body,
        request.keep_alive,
        stream=bool(request.stream),
        linked_images=images.linked,
        prompt=request.messages[-1].words[:_LOGGED] if settings.logs.prompts else "",
    )


def check_analyze(settings: Settings, body: bytes) -> Checked:
    request = parse_json(AnalyzeRequest, body)
    alias, _ = choose_model(settings, "analyze", request.model)
    images = ImageInputs(settings.images, "image")
    images.check(request.image, "image", ("image",))
    prompt = _logged(settings, request.question)
    return Checked(
        alias,
        body,
        request.keep_alive,
        linked_images=images.linked,
        prompt=prompt,
    )


def check_generation(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageGenerationRequest, body)
    alias, model = _image_model(settings, "generate", request)
    capabilities.check_generation(request, model.traits)
    return _checked(settings, request, alias, body)


def check_edit(settings: Settings, body: bytes) -> Checked:
    request = parse_json(ImageEditRequest, body)
    checked, images = _check_edit(settings, request, body)
    for i, (name, text) in enumerate(request.input_images):
        images.check(text, name, ("image", i) if request.images is None else ("images", i, "image_url"))
    if request.mask:
        images.check(request.mask, "mask", ("mask",))
    return replace(checked, linked_images=images.linked)


def check_edit_form(settings: Settings, fields: Sequence[tuple[str, str | bytes]]) -> Checked:
    """A multipart form's *fields* in their order: text as str, files as bytes.

    Files are checked as bytes; the JSON body is built last, and encodes each file once.
    """
    form = _EditForm.of(fields, settings.images.max_mb)
    request = parse_form(ImageEditRequest, form.values)
    checked, images = _check_edit(settings, request, b"")
    for i, (value, (name, _)) in enumerate(zip(form.images, request.input_images, strict=True)):
        images.check(value, name, ("image", i))
    if form.mask:
        images.check(form.mask, "mask", ("mask",))
    data = request.model_dump(mode="json", exclude_none=True)
    data["image"] = [_as_base64(value) for value in form.images]
    if form.mask:
        data["mask"] = _as_base64(form.mask)
    return replace(checked, body=to_json(data), linked_images=images.linked)


def _check_edit(
    settings: Settings, request: ImageEditRequest, body: bytes
) -> tuple[Checked, ImageInputs]:
    """The checks of an edit that need none of its images."""
    alias, model = _image_model(settings, "edit", request)
    capabilities.edit_way(request, model.traits)
    return _checked(settings, request, alias, body), ImageInputs(settings.images, "image")


def _image_model(settings: Settings, route: str, request: ImageRequest) -> tuple[str, ImageSettings]:
    """The image model that serves the request. Raises ``InvalidRequest`` for an invalid size."""
    alias, model = choose_model(settings, route, request.model)
    assert isinstance(model, ImageSettings)  # only image models have these capabilities
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
    )


def _logged(settings: Settings, prompt: str) -> str:
    return prompt[:_LOGGED] if settings.logs.prompts else ""


@dataclass(frozen=True, slots=True)
class _EditForm:
    """The fields of a form. ``values`` holds a placeholder for each image and for the mask."""

    values: dict[str, Any]
    images: list[str | bytes]
    mask: str | bytes

    @classmethod
    def of(cls, fields: Sequence[tuple[str, str | bytes]], max_mb: int) -> _EditForm:
        images: list[str | bytes] = []
        mask: str | bytes = ""
        values: dict[str, Any] = {}
        for name, value in fields:
            if _IMAGE_FIELD.fullmatch(name):
                images.append(_image(value, "image", max_mb))
            elif name == "mask" and value:
                mask = _image(value, "mask", max_mb)
            elif nested := _NESTED.match(name):
                if nested[1] in ImageEditRequest.model_fields:
                    raise InvalidRequest(f"{nested[1]} has no parts", param=name)
                values[nested[1]] = name  # a field that is unsupported or unknown
            elif isinstance(value, bytes):
                values[name] = base64.b64encode(value).decode()
            elif value != "":  # an empty text field means "not given"
                values[name] = value
        if images:
            values["image"] = [_PLACEHOLDER] * len(images)
        if mask:
            values["mask"] = _PLACEHOLDER
        return cls(values, images, mask)


def _image(value: str | bytes, param: str, max_mb: int) -> str | bytes:
    """An image of a form. Files are checked here; text is checked with the request."""
    if isinstance(value, bytes):
        require_image(value, param, max_mb=max_mb)
    return value


def _as_base64(value: str | bytes) -> str:
    return value if isinstance(value, str) else base64.b64encode(value).decode()
