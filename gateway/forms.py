"""Parses a multipart form, bounded, in every order and framing that the SDKs use.

openai-node sends chunked bodies with the files first, Python sends the text first. Field names are
``image`` or ``image[]``. Part types are often application/octet-stream. So the framing decides
nothing: a part is a file or text, and images are recognized by their first bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from contracts.errors import InvalidRequest


class _Parser(MultiPartParser):
    """``ended``: the last boundary was found. Without it, Starlette silently drops the last part."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def read_form(
    headers: Headers, chunks: AsyncGenerator[bytes, None], limit: int
) -> list[tuple[str, str | bytes]]:
    """The fields in their order: text as str, files as bytes.

    *chunks*: the body, of at most *limit* bytes (``RequestBody.chunks``). Raises ``InvalidRequest`` for
    a malformed form.
    """
    parser = _Parser(headers, chunks, max_files=16, max_part_size=limit)
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise InvalidRequest(f"the multipart form is invalid: {exc.message}") from exc
    except (KeyError, UnicodeDecodeError, ValueError) as exc:
        raise InvalidRequest("the multipart form is invalid") from exc
    if not parser.ended:
        for file in parser._files_to_close_on_error:  # the last file may belong to no field
            file.close()
        raise InvalidRequest("the multipart form is invalid: its last boundary is missing")
    try:
        return [
            (name, await value.read() if isinstance(value, UploadFile) else value)
            for name, value in form.multi_items()
        ]
    finally:
        await form.close()
