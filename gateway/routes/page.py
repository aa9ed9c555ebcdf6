"""The page at ``/``: static files. They need no key; the page's requests do.

Rules: only files in ``gateway/page`` are served. The page may load from and connect to this gateway
only, and runs no script and no style outside these files (its Content-Security-Policy).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from contracts.errors import NotFound

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).resolve().parents[1] / "page"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_FILES = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Modules of two versions do not fit together: after an upgrade all are fetched again.
    "cache-control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> Response:
    return _file("index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise NotFound(f"no such file: {name}")
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)
