"""The routes of an image model: drawing and editing.

A stream has a comment for each step (``: step 2 of 4, about 3 s left``), an event for each preview that
was asked for, and one for each picture that is complete.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from contracts.capabilities import EditWay, check_generation, edit_way
from contracts.control import ImageProgress
from contracts.media import Size, parse_size, read_image_field, sniff
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest
from web import sse
from workers.engine import Drawn, Encoded, ImageEvent, ImageJob, Previewed, Stepped
from workers.image import files, generation
from workers.image.editing import edit_job
from workers.image.generation import ImageAnswer
from workers.image.progress import Progress, told
from workers.serving import image_codec
from workers.serving.endpoint import Answer, Exchange, Stopwatch, Worker


@dataclass(frozen=True, slots=True)
class _Begun:
    answer: ImageAnswer
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class _Preview:
    index: int
    number: int
    base64: str


@dataclass(frozen=True, slots=True)
class _Picture:
    index: int
    base64: str


_Piece = _Begun | ImageProgress | _Preview | _Picture
_Pieces = AsyncGenerator[_Piece, None]


class ImageRoutes:
    def __init__(self, worker: Worker, settings: ImageSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def generate(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/generations``"""
        request = await exchange.parsed(ImageGenerationRequest)
        check_generation(request, self._settings.traits)
        limit = self._settings.max_pixels
        size = self._asked_size(request) or parse_size(self._settings.size, max_pixels=limit)
        steps = generation.chosen_steps(request, self._settings)
        job = generation.job_of(request, self._settings, size, steps, steps)
        return await self._answer(exchange, request, self._draw(exchange, request, None, lambda: job))

    async def edit(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/edits``: JSON; the gateway turns forms into it."""
        request = await exchange.parsed(ImageEditRequest)
        way = edit_way(request, self._settings.traits)
        asked = self._asked_size(request)

        def prepare() -> ImageJob:
            return edit_job(request, way, self._settings, asked)

        if request.strength == 0:
            pieces = self._keep(exchange, request)
        else:
            pieces = self._draw(exchange, request, way, prepare)
        return await self._answer(exchange, request, pieces)

    # --- the work ----------------------------------------------------------------------------------

    async def _draw(
        self,
        exchange: Exchange,
        request: ImageRequest,
        way: EditWay | None,
        prepare: Callable[[], ImageJob],
    ) -> _Pieces:
        worker = self._worker
        progress: Progress | None = None
        try:
            async with worker.running(prepare, exchange) as (job, events):
                answer = self._new_answer(exchange, request, job)
                recipe = None
                if self._settings.metadata:
                    recipe = generation.recipe(request, job, self._settings, worker.alias, way)
                event: ImageEvent
                async for event in events:
                    if isinstance(event, Encoded):
                        progress = worker.progress = Progress(job, worker.thread.clock())
                        yield _Begun(answer, event.prompt_tokens)
                    elif isinstance(event, Stepped):
                        assert progress is not None
                        yield progress.stepped(event, worker.thread.clock())
                    elif isinstance(event, Previewed):
                        yield await asyncio.to_thread(_preview, answer, request, event)
                    else:
                        yield await asyncio.to_thread(_picture, answer, request, event, recipe)
        finally:
            if worker.progress is progress:  # and not that of the next job
                worker.progress = None

    async def _keep(self, exchange: Exchange, request: ImageEditRequest) -> _Pieces:
        """Strength 0 asks for no change: the original, and nothing for the model to do."""
        form = request.output_format or "png"
        async with self._worker.prepared:
            name, text = request.input_images[0]
            data = await asyncio.to_thread(read_image_field, text, name)
            image = await asyncio.to_thread(image_codec.decode, data, name)
            size = Size(*image.size)
            if sniff(data) != form:
                data = await asyncio.to_thread(files.encode, image, form, request.output_compression)
        job = generation.job_of(request, self._settings, size, 1, 1, source=image)
        yield _Begun(self._new_answer(exchange, request, job), 0)
        kept = base64.b64encode(data).decode("ascii")
        for index in range(job.n):
            yield _Picture(index, kept)

    # --- the answer --------------------------------------------------------------------------------

    async def _answer(self, exchange: Exchange, request: ImageRequest, pieces: _Pieces) -> Answer:
        if request.stream:
            return self._streamed(exchange, pieces)
        watch = Stopwatch()
        pictures: list[str] = []
        begun: _Begun | None = None
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, _Begun):
                    begun = piece
                    watch.restart()
                elif isinstance(piece, _Picture):
                    pictures.append(piece.base64)
        assert begun is not None
        exchange.notes["images"] = len(pictures)
        return begun.answer.whole(pictures, prompt_tokens=begun.prompt_tokens, latency_s=watch.seconds)

    async def _streamed(self, exchange: Exchange, pieces: _Pieces) -> AsyncGenerator[bytes, None]:
        watch = Stopwatch()
        begun: _Begun | None = None
        exchange.notes["images"] = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, _Begun):
                    begun = piece
                    watch.restart()
                    yield sse.comment("started")
                    continue
                assert begun is not None
                if isinstance(piece, ImageProgress):
                    yield sse.comment(told(piece))
                elif isinstance(piece, _Preview):
                    yield begun.answer.partial(piece.index, piece.number, piece.base64)
                else:
                    exchange.notes["images"] += 1
                    yield begun.answer.completed(
                        piece.index,
                        piece.base64,
                        prompt_tokens=begun.prompt_tokens,
                        latency_s=watch.seconds,
                    )
                    watch.restart()

    # --- from the request --------------------------------------------------------------------------

    def _asked_size(self, request: ImageRequest) -> Size | None:
        """The size that the request names; None: the model's own, or the source's."""
        if request.size in (None, "", "auto"):
            return None
        return parse_size(str(request.size), max_pixels=self._settings.max_pixels)

    def _new_answer(self, exchange: Exchange, request: ImageRequest, job: ImageJob) -> ImageAnswer:
        seen = job.references or (() if job.source is None else (job.source,))
        edit = isinstance(request, ImageEditRequest)
        return ImageAnswer(
            who=self._worker.identity("img", exchange.request_id),
            kind="image_edit" if edit else "image_generation",
            prompt=request.prompt,
            size=Size(job.width, job.height),
            output_format=request.output_format or "png",
            quality=request.quality_level,
            seed=job.seed,
            n=job.n,
            sources=tuple(Size(*picture.size) for picture in seen),
        )


# In worker threads: they encode.


def _preview(answer: ImageAnswer, request: ImageRequest, event: Previewed) -> _Preview:
    small = Size(event.width, event.height)
    text = files.encode_preview(
        small, event.rgb, answer.size, answer.output_format, request.output_compression
    )
    return _Preview(event.index, event.number, text)


def _picture(
    answer: ImageAnswer, request: ImageRequest, event: Drawn, recipe: dict[str, Any] | None
) -> _Picture:
    if recipe is not None:
        recipe = {**recipe, "seed": answer.seed_of(event.index)}
    text = files.encode_rgb(
        Size(event.width, event.height),
        event.rgb,
        answer.output_format,
        request.output_compression,
        recipe,
    )
    return _Picture(event.index, text)
