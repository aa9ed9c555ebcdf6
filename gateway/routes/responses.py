"""Responses by their id, none of which is kept. They are asked for in ``gateway.routes.inference``."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from contracts.errors import NotFound

router = APIRouter(include_in_schema=False)  # there is nothing to be had here


@router.get("/v1/responses/{response_id}")
@router.delete("/v1/responses/{response_id}")
@router.get("/v1/responses/{response_id}/input_items")
@router.post("/v1/responses/{response_id}/cancel")
async def kept_response(response_id: str) -> Response:
    """Always a 404: a response is in the answer to its request, and nowhere else."""
    raise NotFound(f"there is no response {response_id!r}: responses are not kept", param="response_id")
