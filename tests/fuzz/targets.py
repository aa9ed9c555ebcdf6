"""The fuzzed code, and the rules that hold for every input.

A refusal is a client error (4xx) with a short message; nothing else is raised. Every later parser reads
an accepted input in the same way. The pieces in which bytes arrive make no difference.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from starlette.datastructures import Headers

from contracts.errors import ApiError, UpstreamError
from contracts.media import Size, fit_size, parse_size, read_image_field, sniff
from contracts.settings.file import ENVIRONMENT, SettingsError, load
from contracts.wire import parse_json as parsed
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.chat import ChatRequest
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest
from gateway.checks import (
    Checked,
    check_analyze,
    check_chat,
    check_edit,
    check_edit_form,
    check_generation,
)
from gateway.forms import read_form
from gateway.images_out.links import taken_out, with_urls
from tests.fuzz import seeds
from tests.fuzz.driver import Target
from tests.fuzz.streams import cut_stream, heads
from web.errors import error_response

T = TypeVar("T")
LIMIT = 1 << 14  # bytes of a form


def attempt(call: Callable[[], T]) -> T | int:
    """The result, or the status of a refusal, which must be a client error with a short message."""
    try:
        return call()
    except ApiError as exc:
        refusal = exc
    assert 400 <= refusal.status < 500, refusal
    answer = error_response(refusal, "gateway")
    assert len(answer.body) < 30_000, "the error repeats the request"
    assert json.loads(bytes(answer.body))["error"]["message"]
    return refusal.status


def pieces(data: bytes) -> Iterator[bytes]:
    """*data* in pieces of a size that depends on *data*."""
    size = crc32(data) % 61 + 1 + len(data) // 64
    return (data[at : at + size] for at in range(0, len(data), size))


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*, which must not wait for anything."""
    try:
        work.send(None)
    except StopIteration as exc:
        result: T = exc.value
        return result
    raise AssertionError("it waits")


# --- forms ----------------------------------------------------------------------------------------


def form(data: bytes) -> None:
    """The first line of *data* is the content type, the rest the body."""
    content_type, _, body = data.partition(b"\n")
    if not content_type.lower().startswith(b"multipart/form-data"):
        return  # another parser's
    headers = Headers(raw=[(b"content-type", content_type)])

    def read(chunks: Iterator[bytes]) -> list[tuple[str, str | bytes]] | int:
        async def feed() -> AsyncGenerator[bytes, None]:
            for chunk in chunks:
                yield chunk

        return attempt(lambda: finished(read_form(headers, feed(), LIMIT)))

    whole = read(iter([body]))
    in_pieces = read(pieces(body))
    if isinstance(whole, int):
        # A form with several faults is refused for the first one that is found.
        assert isinstance(in_pieces, int)
        return
    assert in_pieces == whole
    checked = attempt(lambda: check_edit_form(seeds.SETTINGS_READ, whole))
    if isinstance(checked, Checked):
        # The resulting JSON is a request that a client could have sent.
        assert check_edit(seeds.SETTINGS_READ, checked.body).alias == checked.alias
        again = parsed(ImageEditRequest, checked.body)
        links = {link.url for link in checked.linked_images}
        here = [text for _, text in again.input_images if text not in links]
        assert all(sniff(read_image_field(text, "image")) for text in here)


# --- images ---------------------------------------------------------------------------------------


def media(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    image = attempt(lambda: read_image_field(text, "image"))
    if isinstance(image, bytes):
        assert sniff(image)
        assert read_image_field(base64.b64encode(image).decode(), "image") == image
        uri = "data:image/png;base64," + base64.b64encode(image).decode()
        assert read_image_field(uri, "image") == image
    size = attempt(lambda: parse_size(text, max_pixels=1 << 20))
    if isinstance(size, Size):
        assert 0 < size.pixels <= 1 << 20
        fitted = fit_size(Size(size.width * 7, size.height * 3), max_pixels=1 << 16)
        assert fitted.pixels <= 1 << 16
        assert fitted.width % 16 == fitted.height % 16 == 0


# --- requests -------------------------------------------------------------------------------------

_CHECKS = (
    (check_chat, ChatRequest),
    (check_analyze, AnalyzeRequest),
    (check_generation, ImageGenerationRequest),
    (check_edit, ImageEditRequest),
)


def requests(data: bytes) -> None:
    for check, model in _CHECKS:
        checked = attempt(lambda check=check: check(seeds.SETTINGS_READ, data))  # type: ignore[misc]
        if isinstance(checked, Checked):
            assert checked.body is data
            assert checked.alias in seeds.SETTINGS_READ.models
            request = parsed(model, data)
            # Python's own parser agrees on the known fields.
            raw = json.loads(data)
            assert request.model_fields_set - set(request.model_extra or ()) <= set(raw)
            assert request.model == raw.get("model")
            if checked.keep_alive is not None:
                assert repr(checked.keep_alive).isascii()


def answers(data: bytes) -> None:
    """A worker's response is not trusted to be valid."""
    try:
        answer, images = taken_out(data)
    except UpstreamError:
        return
    urls = [f"u{number}" for number in range(len(images))]
    parsed_answer = json.loads(with_urls(answer, urls))
    assert [item["url"] for item in parsed_answer["data"]] == urls
    assert not any("b64_json" in item for item in parsed_answer["data"])


# --- settings -------------------------------------------------------------------------------------

_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")


def settings(data: bytes) -> None:
    """A settings file; after a line of dashes and dots follow environment values, one per line."""
    text, _, lines = data.partition(b"\n-.-\n")
    values = lines.decode("utf-8", "replace").splitlines()
    environ = dict(zip(ENVIRONMENT, values, strict=False))
    file = Path(_FOLDER.name) / "config.yaml"
    file.write_bytes(text)
    try:
        read = load(file, environ)
    except SettingsError:
        return
    assert load(file, environ) == read
    assert read.defaults.chat in read.models


TARGETS = (
    Target("form", form, seeds.FORMS, seeds.FORM_WORDS),
    Target("media", media, seeds.MEDIA, seeds.MEDIA_WORDS),
    Target("requests", requests, seeds.REQUESTS, seeds.REQUEST_WORDS),
    Target("answers", answers, seeds.ANSWERS, seeds.ANSWER_WORDS),
    Target("stream", cut_stream, seeds.STREAMS, seeds.STREAM_WORDS),
    Target("heads", heads, seeds.HEADS, seeds.HEAD_WORDS),
    Target("settings", settings, seeds.SETTINGS, seeds.SETTINGS_WORDS),
)
