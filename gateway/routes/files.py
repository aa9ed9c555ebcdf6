"""Pictures that were asked for with ``response_format: url``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from contracts.errors import NotFound
from gateway.images_out.links import FILES

router = APIRouter()

FileName = Annotated[str, Path(description="The end of a ``url`` of an answer.")]


@router.api_route(
    FILES + "{name}",
    methods=["GET", "HEAD"],
    tags=["images"],
    response_class=Response,
    responses={
        200: {
            "description": "The picture.",
            "content": {f"image/{form}": {} for form in ("png", "jpeg", "webp")},
        }
    },
)
async def image_file(request: Request, name: FileName) -> Response:
    """A picture by its URL, while it is kept.

    The name is the key to it, so no other is needed.
    """
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
