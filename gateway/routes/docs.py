"""The API description: ``/openapi.json``, ``/openapi.yaml``, and ``/docs`` to browse and try it.

``/docs`` is Swagger UI from a package, so it works offline. Its page may load nothing from anywhere
else and runs only these scripts. Reading it needs no key; the calls that it makes do.
"""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from contracts.errors import NotFound
from gateway.openapi.document import TITLE, as_yaml, document

router = APIRouter(include_in_schema=False)

_ASSETS = "fastapi_swagger.resources"
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Large bodies are images in base64: highlighting them would freeze the page.
_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  syntaxHighlight: false,
});
"""
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_GUARDED = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_KEPT = {**_GUARDED, "cache-control": "max-age=3600"}


@router.get("/openapi.json")
async def openapi_json(request: Request) -> Response:
    text = await asyncio.to_thread(_as_json, *_description_args(request))
    return Response(text, media_type="application/json")


@router.get("/openapi.yaml")
async def openapi_yaml(request: Request) -> Response:
    text = await asyncio.to_thread(_as_yaml, *_description_args(request))
    return Response(text, media_type="application/yaml")


@router.get("/docs")
async def page() -> Response:
    return Response(_PAGE, media_type="text/html", headers=_GUARDED)


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(_START, media_type="text/javascript", headers=_KEPT)


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    if name not in _FILES:
        raise NotFound(f"no such file: {name}")
    return FileResponse(_path(name), media_type=_FILES[name], headers=_KEPT)


def _path(name: str) -> Path:
    with as_file(files(_ASSETS) / name) as path:  # a folder on disk: the path stays valid
        return path


def _description_args(request: Request) -> tuple[str, bool]:
    """What the description depends on: the address, and whether a key is required."""
    state = request.app.state
    return state.settings.gateway.public_url or "/", bool(state.keyring)


# Cached: it takes a second, and anyone may request it.
@lru_cache(maxsize=4)
def _as_json(server: str, key: bool) -> str:
    return json.dumps(document(server, key=key), ensure_ascii=False)


@lru_cache(maxsize=4)
def _as_yaml(server: str, key: bool) -> str:
    return as_yaml(document(server, key=key))
