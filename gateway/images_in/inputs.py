"""The pictures of a request: pure checks of those that are in it, and the list of those to be fetched.

Rules: of a picture in the body everything is checked that can be known without decoding it; of one
that is named by a URL, everything that the text says. Both are refused with the name of their field.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.image_header import refuse_bombs
from contracts.media import is_url, read_image_field, require_image, sniff
from contracts.settings.images import ImageInputSettings
from contracts.wire import as_list
from gateway.images_in.fetch_url import BadUrl, Target, read_target

BAD_URL = "invalid_image_url"  # OpenAI's code

At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A picture that is somewhere else: its URL, the name of its field, and where the body has it."""

    url: str
    param: str
    at: At

    @property
    def target(self) -> Target:
        """Raises ``InvalidRequest`` naming the field."""
        try:
            return read_target(self.url)
        except BadUrl as exc:
            raise bad_url(str(exc), self.param) from exc


def bad_url(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=BAD_URL)


class Inputs:
    """Takes the pictures of one request, all in the field *holder*, one after another."""

    def __init__(self, settings: ImageInputSettings, holder: str) -> None:
        self._settings = settings
        self._holder = holder
        self._count = 0
        self._links: list[Link] = []

    def check(self, text: str, param: str, at: At) -> None:
        """Raises for one too many and for what can't be an image; notes one that is to be fetched."""
        self._count += 1
        if self._count > self._settings.max_per_request:
            raise InvalidRequest(
                f"the request has more than {self._settings.max_per_request} images"
                " (images.max_per_request)",
                param=self._holder,
            )
        if not is_url(text):
            refuse_bombs(read_image_field(text, param, max_mb=self._settings.max_mb), param)
            return
        link = Link(text, param, at)
        _ = link.target
        if self._settings.fetch == "off":
            raise UnsupportedParameter(
                "image URLs are not fetched here (images.fetch is off); send the image as a data URI"
                " or as base64",
                param=param,
            )
        self._links.append(link)

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._links)


def require_fetched(data: bytes, param: str) -> None:
    """As for a picture that came in the body; raises ``InvalidRequest``."""
    try:
        require_image(data, param)
    except InvalidRequest as exc:
        raise bad_url(f"what is at the URL is no image: {exc.message}", param) from exc
    refuse_bombs(data, param)


def with_fetched(body: bytes, links: tuple[Link, ...], fetched: Mapping[str, bytes]) -> bytes:
    """*body* with each of *links* replaced by what was *fetched* from its URL, as a data URI."""
    data = from_json(body)
    for link in links:
        picture = fetched[link.url]
        kind = sniff(picture)
        _put(data, link, f"data:image/{kind};base64,{base64.b64encode(picture).decode()}")
    raw: bytes = to_json(data, inf_nan_mode="constants")
    return raw


def _put(data: Any, link: Link, text: str) -> None:
    *way, last = link.at
    try:
        for step in way:
            data[step] = as_list(data[step])  # where a list is taken, a lone text is one of one
            data = data[step]
        found = data[last]
    except (LookupError, TypeError):
        found = None
    if isinstance(found, dict):  # OpenAI's {"image_url": ...}
        found = found.get("image_url")
    if found != link.url:
        # What was checked is not what would be sent: two readings of one body.
        raise InvalidRequest("the body has a field twice", param=link.param)
    data[last] = text
