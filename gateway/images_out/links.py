"""Replaces the images in a response by URLs.

Rules: workers always respond with ``b64_json``. For a request with ``response_format: url`` the
gateway takes the images out, keeps them (``gateway.images_out.store``) and returns their URLs.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

from pydantic import ValidationError
from starlette.types import Scope

from contracts.errors import ImagesTooLarge, UpstreamError
from contracts.settings import Settings
from contracts.wire.images import ImagesResponse
from gateway.images_out.store import ImageStore, StoredImage, StoreFull
from web.relay import EventRewrite

FILES = "/v1/images/files/"  # stored images, readable without a key
_AROUND = 1 << 18  # bytes of a response, its images not included


class UrlRewrite:
    """A ``gateway.response_rewrite.Rewrite``. *store* keeps the images; *base* is the start of their
    URLs.
    """

    def __init__(self, store: ImageStore, base: str) -> None:
        self._store = store
        self._base = base

    @property
    def limit(self) -> int:
        # Base64 is a third larger than the data.
        return self._store.limit * 4 // 3 + _AROUND

    def too_large(self) -> ImagesTooLarge:
        return too_large(self._store.limit)

    async def whole(self, body: bytes) -> bytes:
        response, taken = await asyncio.to_thread(taken_out, body)
        try:
            tokens = self._store.put(taken)
        except StoreFull as exc:
            raise self.too_large() from exc
        # Expired images are never returned; this frees their memory when nobody asks.
        asyncio.get_running_loop().call_later(self._store.ttl_s + 1, self._store.sweep)
        return with_urls(
            response, [file_url(self._base, token, response.output_format) for token in tokens]
        )

    def refused(self, body: bytes) -> bytes:
        return body

    def events(self) -> EventRewrite | None:
        return None  # streams contain their images


def taken_out(body: bytes) -> tuple[ImagesResponse, list[StoredImage]]:
    """A worker's response, and the images in it. Raises ``UpstreamError``."""
    try:
        response = ImagesResponse.model_validate_json(body)
        images = [
            StoredImage(response.output_format, base64.b64decode(data.b64_json or "", validate=True))
            for data in response.data
        ]
    except (ValidationError, ValueError) as exc:
        raise UpstreamError("the worker's response contains no images") from exc
    return response, images


def with_urls(response: ImagesResponse, urls: Sequence[str]) -> bytes:
    """*response* with *urls* in place of its images."""
    data = [
        item.model_copy(update={"b64_json": None, "url": url})
        for item, url in zip(response.data, urls, strict=True)
    ]
    return response.model_copy(update={"data": data}).model_dump_json(exclude_none=True).encode()


def shown(path: str) -> str:
    """*path* as logs may contain it: an image's name is the key to it."""
    return f"{FILES}..." if path.startswith(FILES) else path


def file_url(base: str, token: str, form: str) -> str:
    return f"{base}{FILES}{token}.{form}"


def base_url(settings: Settings, scope: Scope) -> str:
    """The address of this gateway for the client of *scope*: as configured, else as just used."""
    if settings.gateway.public_url:
        return settings.gateway.public_url
    named = dict(scope["headers"])[b"host"].decode("latin-1")  # checked by web.origin_guard
    return f"{scope.get('scheme', 'http')}://{named}"


def too_large(limit: int) -> ImagesTooLarge:
    """The error for a response whose images take more than *limit* bytes."""
    return ImagesTooLarge(
        f"the images take more than gateway.image_url_max_mb ({limit >> 20} MiB): "
        "ask for fewer, or for response_format 'b64_json'",
        param="response_format",
    )
