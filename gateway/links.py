"""From an answer with pictures in it to one with their URLs. Pure.

Rules: a worker always answers with ``b64_json``; for a request with ``response_format: url`` the
gateway takes the pictures out, keeps them (``gateway.pictures``) and tells where they are.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from pydantic import ValidationError
from starlette.types import Scope

from contracts.errors import InvalidRequest, UpstreamError
from contracts.openai import ImagesResponse
from contracts.settings import Settings
from gateway.pictures import Picture

FILES = "/v1/images/files/"  # where pictures are found, without a key


def taken_out(body: bytes) -> tuple[ImagesResponse, list[Picture]]:
    """An answer of a worker, and the pictures in it; raises ``UpstreamError``."""
    try:
        answer = ImagesResponse.model_validate_json(body)
        pictures = [
            Picture(answer.output_format, base64.b64decode(data.b64_json or "", validate=True))
            for data in answer.data
        ]
    except (ValidationError, ValueError) as exc:
        raise UpstreamError("the worker's answer holds no pictures") from exc
    return answer, pictures


def with_urls(answer: ImagesResponse, urls: Sequence[str]) -> bytes:
    """*answer* with *urls* in place of its pictures."""
    data = [
        item.model_copy(update={"b64_json": None, "url": url})
        for item, url in zip(answer.data, urls, strict=True)
    ]
    return answer.model_copy(update={"data": data}).model_dump_json(exclude_none=True).encode()


def file_url(base: str, token: str, form: str) -> str:
    return f"{base}{FILES}{token}.{form}"


def base_url(settings: Settings, scope: Scope) -> str:
    """How the client of *scope* reaches this gateway: as configured, else as it just did."""
    if settings.gateway.public_url:
        return settings.gateway.public_url
    named = dict(scope["headers"])[b"host"].decode("latin-1")  # a name of ours: web.door
    return f"{scope.get('scheme', 'http')}://{named}"


def too_large(limit: int) -> InvalidRequest:
    """The pictures of one answer are more than *limit* bytes."""
    return InvalidRequest(
        f"the pictures take more than gateway.image_url_max_mb ({limit >> 20} MiB): "
        "ask for fewer, or for response_format 'b64_json'",
        param="response_format",
        code="pictures_too_large",
    )
