"""The routes of an image model: drawing and editing.

``partial_images`` is accepted, and none are sent in this version: a preview costs a whole VAE decode.
A stream has a comment for each step (``: step 2/4``) and one event for each picture that is complete.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from contracts.media import Size, fit_size, parse_size, read_image_field, sniff
from contracts.openai import DEFAULT_STRENGTH, ImageEditRequest, ImageGenerationRequest
from contracts.settings import ImageSettings
from workers import answers, media
from workers.answers import ImageAnswer
from workers.endpoint import Answer, Exchange, Stopwatch, Worker
from workers.engine import Drawn, Encoded, ImageEvent, ImageJob, Stepped

_Request = ImageGenerationRequest | ImageEditRequest


@dataclass(frozen=True, slots=True)
class _Begun:
    answer: ImageAnswer
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class _Picture:
    index: int
    base64: str


_Piece = _Begun | Stepped | _Picture
_Pieces = AsyncGenerator[_Piece, None]


class ImageRoutes:
    def __init__(self, worker: Worker, settings: ImageSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def generate(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/generations``"""
        request = await exchange.parsed(ImageGenerationRequest)
        answers.refuse_negative_prompt(request, self._settings.family)
        limit = self._settings.max_pixels
        size = self._asked_size(request) or parse_size(self._settings.size, max_pixels=limit)
        steps = answers.chosen_steps(request, self._settings)
        job = self._job(request, size, steps, steps)
        return await self._answer(exchange, request, self._draw(exchange, request, lambda: job))

    async def edit(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/edits``: JSON; the gateway turns forms into it."""
        request = await exchange.parsed(ImageEditRequest)
        answers.refuse_negative_prompt(request, self._settings.family)
        asked = self._asked_size(request)
        data = await asyncio.to_thread(read_image_field, request.image[0], "image")
        strength = DEFAULT_STRENGTH if request.strength is None else request.strength
        steps = answers.chosen_steps(request, self._settings)

        def prepare() -> ImageJob:
            source = media.decode(data, "image")
            own = Size(*source.size)
            size = asked or fit_size(own, max_pixels=self._settings.max_pixels)
            run_steps = answers.steps_to_run(steps, strength)
            return self._job(request, size, steps, run_steps, media.cover(source, size))

        if strength == 0:
            pieces = self._keep(exchange, request, data)
        else:
            pieces = self._draw(exchange, request, prepare)
        return await self._answer(exchange, request, pieces)

    # --- the work ----------------------------------------------------------------------------------

    async def _draw(
        self, exchange: Exchange, request: _Request, prepare: Callable[[], ImageJob]
    ) -> _Pieces:
        async with self._worker.running(prepare, exchange) as (job, events):
            size = Size(job.width, job.height)
            answer = self._new_answer(exchange, request, job, None if job.source is None else size)
            form = answer.output_format
            event: ImageEvent
            async for event in events:
                if isinstance(event, Encoded):
                    yield _Begun(answer, event.prompt_tokens)
                elif isinstance(event, Drawn):
                    drawn = Size(event.width, event.height)
                    text = await asyncio.to_thread(
                        media.encode_rgb, drawn, event.rgb, form, request.output_compression
                    )
                    yield _Picture(event.index, text)
                elif isinstance(event, Stepped):
                    yield event

    async def _keep(self, exchange: Exchange, request: _Request, data: bytes) -> _Pieces:
        """Strength 0 asks for no change: the original, and nothing for the model to do."""
        form = request.output_format or "png"
        async with self._worker.prepared:
            image = await asyncio.to_thread(media.decode, data, "image")
            size = Size(*image.size)
            if sniff(data) != form:
                data = await asyncio.to_thread(media.encode, image, form, request.output_compression)
        job = self._job(request, size, 1, 1)
        yield _Begun(self._new_answer(exchange, request, job, size), 0)
        text = base64.b64encode(data).decode("ascii")
        for index in range(job.n):
            yield _Picture(index, text)

    # --- the answer --------------------------------------------------------------------------------

    async def _answer(self, exchange: Exchange, request: _Request, pieces: _Pieces) -> Answer:
        if request.stream:
            kind = "image_edit" if isinstance(request, ImageEditRequest) else "image_generation"
            return self._streamed(exchange, kind, pieces)
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

    async def _streamed(
        self, exchange: Exchange, kind: str, pieces: _Pieces
    ) -> AsyncGenerator[bytes, None]:
        watch = Stopwatch()
        begun: _Begun | None = None
        exchange.notes["images"] = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, _Begun):
                    begun = piece
                    watch.restart()
                    yield answers.sse_comment("started")
                elif isinstance(piece, Stepped):
                    yield answers.sse_comment(f"step {piece.step}/{piece.steps}")
                else:
                    assert begun is not None
                    exchange.notes["images"] += 1
                    yield begun.answer.completed(
                        kind,
                        piece.index,
                        piece.base64,
                        prompt_tokens=begun.prompt_tokens,
                        latency_s=watch.seconds,
                    )
                    watch.restart()

    # --- from the request --------------------------------------------------------------------------

    def _asked_size(self, request: _Request) -> Size | None:
        """The size that the request names; None: the model's own, or the source's."""
        if request.size in (None, "", "auto"):
            return None
        return parse_size(str(request.size), max_pixels=self._settings.max_pixels)

    def _job(
        self,
        request: _Request,
        size: Size,
        steps: int,
        run_steps: int,
        source: media.Picture | None = None,
    ) -> ImageJob:
        guidance = request.guidance
        return ImageJob(
            prompt=request.prompt,
            width=size.width,
            height=size.height,
            steps=steps,
            run_steps=run_steps,
            guidance=self._settings.default_guidance if guidance is None else guidance,
            seed=answers.chosen_seed(request.seed),
            n=request.n or 1,
            source=source,
        )

    def _new_answer(
        self, exchange: Exchange, request: _Request, job: ImageJob, source: Size | None
    ) -> ImageAnswer:
        return ImageAnswer(
            who=self._worker.identity("img", exchange.request_id),
            prompt=request.prompt,
            size=Size(job.width, job.height),
            output_format=request.output_format or "png",
            seed=job.seed,
            n=job.n,
            source=source,
        )
