"""The routes of an image model: drawing and editing.

``partial_images`` is accepted, and none are sent in this version: a preview costs a whole VAE decode.
A stream has a comment for each step (``: step 2/4``) and one event for each picture that is complete.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

from contracts.errors import InvalidRequest
from contracts.media import Size, fit_size, parse_size, read_image_field, sniff
from contracts.openai import DEFAULT_STRENGTH, ImageEditRequest, ImageGenerationRequest
from contracts.settings import ImageSettings
from workers import answers, media
from workers.answers import ImageAnswer
from workers.endpoint import Answer, Exchange, Stopwatch, Worker
from workers.engine import Drawn, Encoded, ImageEvent, ImageJob, Stepped

_Request = ImageGenerationRequest | ImageEditRequest
_Drawing = tuple[ImageAnswer, AsyncIterator[ImageEvent]]


class ImageRoutes:
    def __init__(self, worker: Worker, settings: ImageSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def generate(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/generations``"""
        request = await exchange.parsed(ImageGenerationRequest)
        answers.refuse_negative_prompt(request, self._settings.family)
        size = self._size(request) or parse_size(
            self._settings.size, max_pixels=self._settings.max_pixels
        )
        steps = answers.chosen_steps(request, self._settings)
        answer = self._new_answer(exchange, request, size)
        job = self._job(request, answer, steps=steps, run_steps=steps)
        drawing = answer, self._worker.events(lambda: job)
        return await self._drawn(exchange, request, "image_generation", drawing)

    async def edit(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/edits``: JSON; the gateway turns forms into it."""
        request = await exchange.parsed(ImageEditRequest)
        answers.refuse_negative_prompt(request, self._settings.family)
        asked = self._size(request)
        data = await asyncio.to_thread(read_image_field, request.image[0], "image")
        strength = DEFAULT_STRENGTH if request.strength is None else request.strength
        if strength == 0:
            drawing = await self._unchanged(exchange, request, data)
        else:
            drawing = await self._redrawn(exchange, request, data, asked, strength)
        return await self._drawn(exchange, request, "image_edit", drawing)

    async def _redrawn(
        self,
        exchange: Exchange,
        request: ImageEditRequest,
        data: bytes,
        asked: Size | None,
        strength: float,
    ) -> _Drawing:
        async with self._worker.prepared:
            original = await asyncio.to_thread(media.decode, data, "image")
            own = Size(*original.size)
            size = asked or fit_size(own, max_pixels=self._settings.max_pixels)
            source = await asyncio.to_thread(media.cover, original, size)
        steps = answers.chosen_steps(request, self._settings)
        answer = self._new_answer(exchange, request, size, source=size)
        job = self._job(
            request, answer, steps=steps, run_steps=answers.steps_to_run(steps, strength)
        )

        def with_source() -> ImageJob:
            return job

        job = _with(job, source)
        return answer, self._worker.events(with_source)

    async def _unchanged(
        self, exchange: Exchange, request: ImageEditRequest, data: bytes
    ) -> _Drawing:
        """Strength 0 asks for no change: the model has nothing to do."""
        raise NotImplementedError

    # --- shared ------------------------------------------------------------------------------------
