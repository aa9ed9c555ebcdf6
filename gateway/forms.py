"""Reads a multipart form, bounded, in whatever order and framing the SDKs send it.

openai-node sends chunked bodies with the files first, Python sends the text first; field names are
``image`` or ``image[]``; part types are often application/octet-stream. So nothing is taken from the
framing: parts are told apart by being files or text, images by their first bytes (notes in
docs/dev/architecture.md).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from contracts.errors import InvalidRequest
from web.request_body import too_large


class _Parser(MultiPartParser):
    """``ended``: the last boundary was there; without it the last part is left out without a word."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def read_form(
    headers: Headers, chunks: AsyncIterator[bytes], limit: int
) -> list[tuple[str, str | bytes]]:
    """The fields in their order: text as str, files as bytes.

    Raises ``InvalidRequest`` for a malformed form, ``PayloadTooLarge`` past *limit* bytes in all.
    """
    parser = _Parser(headers, _bounded(chunks, limit), max_files=16, max_part_size=limit)
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise InvalidRequest(f"the multipart form can't be read: {exc.message}") from exc
    except (KeyError, UnicodeDecodeError, ValueError) as exc:
        raise InvalidRequest("the multipart form can't be read") from exc
    if not parser.ended:
        for file in parser._files_to_close_on_error:  # the last may stand in no field
            file.close()
        raise InvalidRequest("the multipart form can't be read: its last boundary is missing")
    try:
        return [
            (name, await value.read() if isinstance(value, UploadFile) else value)
            for name, value in form.multi_items()
        ]
    finally:
        await form.close()


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        yield chunk
