"""The images of a request: pure checks of those in the body, and the list of those to fetch.

Rules: an image in the body is checked as far as possible without decoding pixels, and an image URL as
far as its text allows. Both are refused with the name of their field.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from contracts.errors import InvalidImageUrl, InvalidRequest, UnsupportedParameter
from contracts.image_header import refuse_bombs
from contracts.media import is_url, read_image_field, require_image, sniff
from contracts.settings.images import ImageInputSettings
from contracts.wire import as_list
from gateway.images_in.fetch_url import BadUrl, FetchUrl, parse_fetch_url

At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class LinkedImage:
    """An image that is given by URL: its URL, the name of its field, and its place in the body."""

    url: str
    param: str
    at: At

    @property
    def fetch_url(self) -> FetchUrl:
        """Raises ``InvalidRequest`` naming the field."""
        try:
            return parse_fetch_url(self.url)
        except BadUrl as exc:
            raise bad_url(str(exc), self.param) from exc


def bad_url(message: str, param: str) -> InvalidImageUrl:
    return InvalidImageUrl(message, param=param)


class ImageInputs:
    """Checks the images of one request, all in the field *holder*, one after another."""

    def __init__(self, settings: ImageInputSettings, holder: str) -> None:
        self._settings = settings
        self._holder = holder
        self._count = 0
        self._linked: list[LinkedImage] = []

    def check(self, image: str | bytes, param: str, at: At) -> None:
        """Check one image: base64 text, a data URI, a URL, or a file that ``require_image`` accepted.

        Raises ``InvalidRequest`` for one image too many and for invalid data; collects URLs to fetch.
        Base64 is decoded whole, because an error may be anywhere in it, and so may a JPEG's scans.
        """
        self._count += 1
        if self._count > self._settings.max_per_request:
            raise InvalidRequest(
                f"the request has more than {self._settings.max_per_request} images"
                " (images.max_per_request)",
                param=self._holder,
            )
        if isinstance(image, bytes):
            refuse_bombs(image, param)
            return
        if not is_url(image):
            refuse_bombs(read_image_field(image, param, max_mb=self._settings.max_mb), param)
            return
        link = LinkedImage(image, param, at)
        _ = link.fetch_url
        if self._settings.fetch == "off":
            raise UnsupportedParameter(
                "image URLs are not fetched here (images.fetch is off); send the image as a data URI"
                " or as base64",
                param=param,
            )
        self._linked.append(link)

    @property
    def linked(self) -> tuple[LinkedImage, ...]:
        return tuple(self._linked)


def require_fetched(data: bytes, param: str) -> None:
    """Check a fetched image like one in the body. Raises ``InvalidRequest``."""
    try:
        require_image(data, param)
    except InvalidRequest as exc:
        raise bad_url(f"the URL does not lead to an image: {exc.message}", param) from exc
    refuse_bombs(data, param)


def with_fetched(body: bytes, links: tuple[LinkedImage, ...], fetched: Mapping[str, bytes]) -> bytes:
    """*body* with each of *links* replaced by the data *fetched* from its URL, as a data URI."""
    data = from_json(body)
    for link in links:
        image = fetched[link.url]
        kind = sniff(image)
        _put(data, link, f"data:image/{kind};base64,{base64.b64encode(image).decode()}")
    raw: bytes = to_json(data, inf_nan_mode="constants")
    return raw


def _put(data: Any, link: LinkedImage, text: str) -> None:
    *path, last = link.at
    try:
        for step in path:
            data[step] = as_list(data[step])  # a single text is accepted in place of a list
            data = data[step]
        found = data[last]
    except (LookupError, TypeError):
        found = None
    if isinstance(found, dict):  # OpenAI's {"image_url": ...}
        found = found.get("image_url")
    if found != link.url:
        # The body that was checked differs from this one: JSON parsers disagree about repeated fields.
        raise InvalidRequest("the body has the same field twice", param=link.param)
    data[last] = text
