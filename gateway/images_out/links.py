"""From an answer with pictures in it to one with their URLs.

Rules: a worker always answers with ``b64_json``; for a request with ``response_format: url`` the
gateway takes the pictures out, keeps them (``gateway.pictures``) and tells where they are. ``Links``
does it; what it does is decided in pure functions.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

from pydantic import ValidationError
from starlette.types import Scope

from contracts.errors import InvalidRequest, UpstreamError
from contracts.settings import Settings
from contracts.wire.openai import ImagesResponse
from gateway.images_out.store import NoRoom, Picture, Pictures
from web.relay import EventRewrite

FILES = "/v1/images/files/"  # where pictures are found, without a key
_AROUND = 1 << 18  # bytes of an answer that are not its pictures


class Links:
    """A ``gateway.response_rewrite.Rewrite``: *pictures* keeps what an answer holds, *base* leads to
    it.
    """

    def __init__(self, pictures: Pictures, base: str) -> None:
        self._pictures = pictures
        self._base = base

    @property
    def limit(self) -> int:
        # Base64 takes a third more than what it stands for.
        return self._pictures.limit * 4 // 3 + _AROUND

    def too_large(self) -> InvalidRequest:
        return too_large(self._pictures.limit)

    async def whole(self, body: bytes) -> bytes:
        told, taken = await asyncio.to_thread(taken_out, body)
        try:
            tokens = self._pictures.put(taken)
        except NoRoom as exc:
            raise self.too_large() from exc
        # Whoever asks finds it expired in any case; this frees the memory when nobody does.
        asyncio.get_running_loop().call_later(self._pictures.ttl_s + 1, self._pictures.sweep)
        return with_urls(told, [file_url(self._base, token, told.output_format) for token in tokens])

    def refused(self, body: bytes) -> bytes:
        return body

    def events(self) -> EventRewrite | None:
        return None  # a stream carries its pictures


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


def shown(path: str) -> str:
    """*path* as logs may hold it: the name of a picture is the key to it."""
    return f"{FILES}..." if path.startswith(FILES) else path


def file_url(base: str, token: str, form: str) -> str:
    return f"{base}{FILES}{token}.{form}"


def base_url(settings: Settings, scope: Scope) -> str:
    """How the client of *scope* reaches this gateway: as configured, else as it just did."""
    if settings.gateway.public_url:
        return settings.gateway.public_url
    named = dict(scope["headers"])[b"host"].decode("latin-1")  # a name of ours: web.origin_guard
    return f"{scope.get('scheme', 'http')}://{named}"


def too_large(limit: int) -> InvalidRequest:
    """The pictures of one answer are more than *limit* bytes."""
    return InvalidRequest(
        f"the pictures take more than gateway.image_url_max_mb ({limit >> 20} MiB): "
        "ask for fewer, or for response_format 'b64_json'",
        param="response_format",
        code="pictures_too_large",
    )
