"""Routes answered by models: chat, responses, generations, edits, analyze. All are proxied."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from contracts.wire.analysis import AnalyzeRequest, AnalyzeResponse
from contracts.wire.chat import ChatRequest
from contracts.wire.completions import ChatChunk, ChatCompletion
from contracts.wire.images import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImagesResponse,
    ImageStreamEvent,
)
from contracts.wire.response_object import ResponseEvent, ResponseObject
from contracts.wire.responses import ResponseRequest
from gateway.checks import check_analyze, check_edit, check_generation
from gateway.exchange import Exchange
from gateway.legacy_functions import check_chat_or_legacy
from gateway.openapi.schemas import (
    CHAT_EVENTS,
    RESPONSE_EVENTS,
    Schema,
    event_stream,
    form_schema,
    image_events,
    model_schema,
)
from gateway.responses.rewrite import check_response


class ProxiedRoute(APIRoute):
    """Described by FastAPI, answered without it: an ``Exchange`` reads the raw request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            exchange = await self.endpoint(Request(scope))
            await exchange(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


router = APIRouter(route_class=ProxiedRoute)

JSON, FORM = "application/json", "multipart/form-data"


def _documented(*bodies: tuple[str, Schema]) -> dict[str, Any]:
    """The request body for the API description: FastAPI can't see it, because an ``Exchange`` reads
    it.
    """
    content = {kind: {"schema": schema} for kind, schema in bodies}
    return {"requestBody": {"required": True, "content": content}}


def _answer(model: type[BaseModel], events: dict[str, Any] | None = None) -> dict[int | str, Any]:
    """A route's 200 for its description. *events*: the event stream that may be returned instead."""
    return {200: {"model": model, "description": "The result.", "content": events or {}}}


@router.post(
    "/v1/chat/completions",
    tags=["chat"],
    responses=_answer(ChatCompletion, event_stream(ChatChunk, CHAT_EVENTS)),
    openapi_extra=_documented((JSON, model_schema(ChatRequest))),
)
async def chat_completions(request: Request) -> Response:
    """Chat about text and images.

    Images in any message, up to ``images.max_per_request``; tools, JSON schemas and log probabilities.
    ``stream: true`` returns server-sent events. Absent sampling fields have the defaults of the
    checkpoint, or OpenAI's.
    """
    return Exchange(request.app.state.services, "/v1/chat/completions", check_chat_or_legacy)


@router.post(
    "/v1/responses",
    tags=["chat"],
    responses=_answer(ResponseObject, event_stream(ResponseEvent, RESPONSE_EVENTS)),
    openapi_extra=_documented((JSON, model_schema(ResponseRequest))),
)
async def responses(request: Request) -> Response:
    """Chat in the form of OpenAI's Responses API.

    Responses are not stored: send the whole input each time.
    """
    return Exchange(request.app.state.services, "/v1/chat/completions", check_response)


@router.post(
    "/v1/images/generations",
    tags=["images"],
    responses=_answer(ImagesResponse, event_stream(ImageStreamEvent, image_events("image_generation"))),
    openapi_extra=_documented((JSON, model_schema(ImageGenerationRequest))),
)
async def images_generations(request: Request) -> Response:
    """Generate images.

    Returns images as base64 or, with ``response_format: url``, as URLs that expire. ``stream: true``
    also sends previews. A model's ``capabilities`` (``GET /v1/models``) list what it supports.
    """
    return Exchange(request.app.state.services, "/v1/images/generations", check_generation)


@router.post(
    "/v1/images/edits",
    tags=["images"],
    responses=_answer(ImagesResponse, event_stream(ImageStreamEvent, image_events("image_edit"))),
    openapi_extra=_documented(
        (JSON, model_schema(ImageEditRequest)),
        (FORM, form_schema(ImageEditRequest, files=("image", "mask"), without=("images",))),
    ),
)
async def images_edits(request: Request) -> Response:
    """Edit an image.

    JSON with base64, or a multipart form as OpenAI's SDKs send it (``image[]`` is read as ``image``).
    """
    return Exchange(request.app.state.services, "/v1/images/edits", check_edit, takes_forms=True)


@router.post(
    "/v1/vision/analyze",
    tags=["vision"],
    responses=_answer(AnalyzeResponse),
    openapi_extra=_documented((JSON, model_schema(AnalyzeRequest))),
)
async def vision_analyze(request: Request) -> Response:
    """Caption, transcribe, describe or analyze an image, list its objects, or ask your own question."""
    return Exchange(request.app.state.services, "/v1/vision/analyze", check_analyze)


ROUTES = [route for route in router.routes if isinstance(route, ProxiedRoute)]
PATHS = frozenset(route.path for route in ROUTES)
