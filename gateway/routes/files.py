"""Images that were requested with ``response_format: url``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from contracts.errors import NotFound
from gateway.images_out.links import FILES

router = APIRouter()

FileName = Annotated[str, Path(description="The last part of a ``url`` from a response.")]


@router.api_route(
    FILES + "{name}",
    methods=["GET", "HEAD"],
    tags=["images"],
    response_class=Response,
    responses={
        200: {
            "description": "The image.",
            "content": {f"image/{form}": {} for form in ("png", "jpeg", "webp")},
        }
    },
)
async def image_file(request: Request, name: FileName) -> Response:
    """Get an image by its URL.

    Needs no key, because the name is random and secret. Expires after ``gateway.image_url_ttl_s``.
    """
    token, _, form = name.partition(".")
    found = request.app.state.images.get(token)
    if found is None or found[0].form != form:
        raise NotFound("no such image; image URLs expire")
    image, left_s = found
    headers = {
        "cache-control": f"private, immutable, max-age={int(left_s)}",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(image.data, media_type=image.content_type, headers=headers)
