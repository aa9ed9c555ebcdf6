"""The four routes that a model answers: chat, generations, edits, analyze. All are proxied."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from contracts.openai import (
    AnalyzeRequest,
    AnalyzeResponse,
    ChatCompletion,
    ChatRequest,
    ImageEditRequest,
    ImageGenerationRequest,
    ImagesResponse,
)
from gateway.checks import check_analyze, check_chat, check_edit, check_generation
from gateway.exchange import Check, Exchange


class ProxiedRoute(APIRoute):
    """Described by FastAPI, answered without it: an ``Exchange`` reads the request by hand."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            exchange = await self.endpoint(Request(scope))
            await exchange(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


router = APIRouter(route_class=ProxiedRoute)


def _documented(*models: tuple[str, type[BaseModel]]) -> dict[str, Any]:
    """The request body for the API's description: it is read by hand, so FastAPI can't see it."""
    content = {kind: {"schema": model.model_json_schema()} for kind, model in models}
    return {"requestBody": {"required": True, "content": content}}


def _exchange(request: Request, path: str, check: Check, *, takes_forms: bool = False) -> Exchange:
    state = request.app.state
    return Exchange(
        state.settings,
        state.session,
        path,
        check,
        fetcher=state.fetcher,
        pictures=state.pictures,
        takes_forms=takes_forms,
    )


@router.post(
    "/v1/chat/completions",
    responses={200: {"model": ChatCompletion}},
    openapi_extra=_documented(("application/json", ChatRequest)),
)
async def chat_completions(request: Request) -> Response:
    """Talk about text and any number of images; ``stream: true`` for server-sent events."""
    return _exchange(request, "/v1/chat/completions", check_chat)


@router.post(
    "/v1/images/generations",
    responses={200: {"model": ImagesResponse}},
    openapi_extra=_documented(("application/json", ImageGenerationRequest)),
)
async def images_generations(request: Request) -> Response:
    """Draw a picture."""
    return _exchange(request, "/v1/images/generations", check_generation)


@router.post(
    "/v1/images/edits",
    responses={200: {"model": ImagesResponse}},
    openapi_extra=_documented(
        ("application/json", ImageEditRequest), ("multipart/form-data", ImageEditRequest)
    ),
)
async def images_edits(request: Request) -> Response:
    """Change a picture: JSON with base64, or a multipart form as OpenAI's SDKs send it."""
    return _exchange(request, "/v1/images/edits", check_edit, takes_forms=True)


@router.post(
    "/v1/vision/analyze",
    responses={200: {"model": AnalyzeResponse}},
    openapi_extra=_documented(("application/json", AnalyzeRequest)),
)
async def vision_analyze(request: Request) -> Response:
    """Caption, read, describe, analyze, list objects, or answer a question of your own."""
    return _exchange(request, "/v1/vision/analyze", check_analyze)


ROUTES = [route for route in router.routes if isinstance(route, ProxiedRoute)]
