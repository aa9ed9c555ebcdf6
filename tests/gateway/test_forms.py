"""Multipart forms are read completely or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.datastructures import Headers

from contracts.errors import InvalidRequest
from gateway.forms import read_form

HEADERS = Headers({"content-type": "multipart/form-data; boundary=b"})
WHOLE = (
    b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\np\r\n'
    b'--b\r\ncontent-disposition: form-data; name="mask"; filename="m.png"\r\n\r\nPNG\r\n'
    b"--b--\r\n"
)


def read(body: bytes) -> list[tuple[str, str | bytes]]:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    return asyncio.run(read_form(HEADERS, chunks(), 1 << 20))


def test_form_fields_keep_their_order() -> None:
    assert read(WHOLE) == [("prompt", "p"), ("mask", b"PNG")]


def test_a_truncated_form_is_refused(subtests: pytest.Subtests) -> None:
    for size in range(len(WHOLE) - len("--\r\n")):
        with subtests.test(size=size), pytest.raises(InvalidRequest, match="multipart form"):
            read(WHOLE[:size])
