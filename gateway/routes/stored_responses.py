"""Responses by id, none of which is stored. ``gateway.routes.inference`` creates them."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from contracts.errors import NotFound

router = APIRouter(include_in_schema=False)  # always a 404


@router.get("/v1/responses/{response_id}")
@router.delete("/v1/responses/{response_id}")
@router.get("/v1/responses/{response_id}/input_items")
@router.post("/v1/responses/{response_id}/cancel")
async def stored_response(response_id: str) -> Response:
    """Always a 404: a response exists only in the reply to its request."""
    raise NotFound(f"no response {response_id!r}: responses are not stored", param="response_id")
