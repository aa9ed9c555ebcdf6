"""Pictures that were asked for with ``response_format: url``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from contracts.errors import NotFound
from gateway.links import FILES

router = APIRouter()


@router.api_route(
    FILES + "{name}",
    methods=["GET", "HEAD"],
    response_class=Response,
    responses={200: {"content": {f"image/{form}": {} for form in ("png", "jpeg", "webp")}}},
)
async def image_file(request: Request, name: str) -> Response:
    """A picture by its URL, while it is kept; its name is the key to it."""
    token, _, form = name.partition(".")
    found = request.app.state.pictures.get(token)
    if found is None or found[0].form != form:
        raise NotFound("this picture is not here, or not any more: URLs of pictures expire")
    picture, left_s = found
    headers = {
        "cache-control": f"private, immutable, max-age={int(left_s)}",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(picture.data, media_type=picture.content_type, headers=headers)
