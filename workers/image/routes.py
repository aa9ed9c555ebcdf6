"""The routes of an image model: generations and edits.

The engine's events become the response in one step. A stream has a comment for each step
(``: step 2 of 4, about 3 s left``), an event for each requested preview, and one for each finished
image.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from contracts.capabilities import EditWay, check_generation, edit_way
from contracts.control import ImageProgress
from contracts.media import Size, read_image_field, sniff
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest
from web import sse
from workers.engine import ImageEvent, ImageFinished, ImageJob, Preview, PromptEncoded, StepFinished
from workers.image import files, jobs
from workers.image.progress import Progress, step_text
from workers.image.responses import ImageResponse
from workers.serving import image_codec
from workers.serving.endpoint import Answer, Exchange, Identity, Stopwatch, Worker


class ImageRoutes:
    def __init__(self, worker: Worker, settings: ImageSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def generate(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/generations``"""
        request = await exchange.parsed(ImageGenerationRequest)
        check_generation(request, self._settings.traits)
        job = jobs.generation_job(request, self._settings)
        run = _Run(self._worker, self._settings, exchange, request, None, lambda: job)
        return run.streamed() if request.stream else await run.whole()

    async def edit(self, exchange: Exchange) -> Answer:
        """``POST /v1/images/edits``: JSON; the gateway converts forms."""
        request = await exchange.parsed(ImageEditRequest)
        way = edit_way(request, self._settings.traits)
        size = jobs.requested_size(request, self._settings)
        if request.strength == 0:
            return await self._unchanged(exchange, request)
        run = _Run(
            self._worker,
            self._settings,
            exchange,
            request,
            way,
            lambda: jobs.edit_job(request, way, self._settings, size),
        )
        return run.streamed() if request.stream else await run.whole()

    async def _unchanged(self, exchange: Exchange, request: ImageEditRequest) -> Answer:
        """Strength 0 changes nothing: the response is the original, without the model.

        Its bytes are the original file's unless another format is requested.
        """
        output_format = request.output_format or "png"
        async with self._worker.prepared:
            name, text = request.input_images[0]
            data = await asyncio.to_thread(read_image_field, text, name)
            image = await asyncio.to_thread(image_codec.decode, data, name)
            if sniff(data) != output_format:
                data = await asyncio.to_thread(
                    files.encode, image, output_format, request.output_compression
                )
        job = jobs.image_job(request, self._settings, Size(*image.size), 1, 1, source=image)
        identity = self._worker.identity("img", exchange.request_id)
        response = _response(identity, request, job, prompt_tokens=0)
        original = base64.b64encode(data).decode("ascii")
        watch = Stopwatch()
        exchange.notes["images"] = job.n
        if not request.stream:
            return response.whole([original] * job.n, watch.seconds)

        async def events() -> AsyncGenerator[bytes, None]:
            yield sse.comment("started")
            for index in range(job.n):
                yield response.completed(index, original, watch.seconds)

        return events()


class _Run:
    """One request that the model works on, from the engine's events to the response."""

    def __init__(
        self,
        worker: Worker,
        settings: ImageSettings,
        exchange: Exchange,
        request: ImageRequest,
        way: EditWay | None,
        prepare: Callable[[], ImageJob],
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._exchange = exchange
        self._request = request
        self._way = way
        self._prepare = prepare
        self._identity = worker.identity("img", exchange.request_id)
        self._recipe: dict[str, Any] | None = None
        self._response: ImageResponse | None = None  # once the prompt is encoded

    @property
    def response(self) -> ImageResponse:
        assert self._response is not None, "the first event of a job is PromptEncoded"
        return self._response

    async def whole(self) -> bytes:
        """The JSON body with all images."""
        watch = Stopwatch()
        images: list[str] = []
        async with aclosing(self._events()) as events:
            async for event, _ in events:
                if isinstance(event, PromptEncoded):
                    watch.restart()
                elif isinstance(event, ImageFinished):
                    images.append(await asyncio.to_thread(self._encode, event))
        self._exchange.notes["images"] = len(images)
        return self.response.whole(images, watch.seconds)

    async def streamed(self) -> AsyncGenerator[bytes, None]:
        watch = Stopwatch()
        self._exchange.notes["images"] = 0
        async with aclosing(self._events()) as events:
            async for event, progress in events:
                if isinstance(event, PromptEncoded):
                    watch.restart()
                    yield sse.comment("started")
                elif isinstance(event, StepFinished):
                    yield sse.comment(step_text(progress))
                elif isinstance(event, Preview):
                    image = await asyncio.to_thread(self._encode_preview, event)
                    yield self.response.partial(event.index, event.number, image)
                else:
                    image = await asyncio.to_thread(self._encode, event)
                    self._exchange.notes["images"] += 1
                    yield self.response.completed(event.index, image, watch.seconds)
                    watch.restart()

    async def _events(self) -> AsyncGenerator[tuple[ImageEvent, ImageProgress], None]:
        """The engine's events, each with the job's progress, which ``/health`` reports meanwhile."""
        worker, clock = self._worker, self._worker.thread.clock
        progress: Progress | None = None
        event: ImageEvent
        try:
            async with worker.running(self._prepare, self._exchange) as (job, events):
                async for event in events:
                    if isinstance(event, PromptEncoded):
                        self._begin(job, event.prompt_tokens)
                        progress = Progress(job, clock())
                        worker.drawing = progress.current
                    assert progress is not None
                    if isinstance(event, StepFinished):
                        shown = worker.drawing is progress.current  # and not yet the next job's
                        progress.stepped(event, clock())
                        if shown:
                            worker.drawing = progress.current
                    yield event, progress.current
        finally:
            if progress is not None and worker.drawing is progress.current:
                worker.drawing = None

    def _begin(self, job: ImageJob, prompt_tokens: int) -> None:
        request = self._request
        self._response = _response(self._identity, request, job, prompt_tokens)
        if self._settings.metadata:
            alias = self._worker.alias
            self._recipe = jobs.recipe(request, job, self._settings, alias, self._way)

    # In worker threads:

    def _encode(self, event: ImageFinished) -> str:
        recipe = self._recipe
        if recipe is not None:
            recipe = {**recipe, "seed": self.response.seed_of(event.index)}
        return files.encode_rgb(
            Size(event.width, event.height),
            event.rgb,
            self.response.output_format,
            self._request.output_compression,
            recipe,
        )

    def _encode_preview(self, event: Preview) -> str:
        return files.encode_preview(
            Size(event.width, event.height),
            event.rgb,
            self.response.size,
            self.response.output_format,
            self._request.output_compression,
        )


def _response(
    identity: Identity, request: ImageRequest, job: ImageJob, prompt_tokens: int
) -> ImageResponse:
    inputs = job.references or (() if job.source is None else (job.source,))
    edit = isinstance(request, ImageEditRequest)
    return ImageResponse(
        identity=identity,
        kind="image_edit" if edit else "image_generation",
        prompt=request.prompt,
        prompt_tokens=prompt_tokens,
        size=Size(job.width, job.height),
        output_format=request.output_format or "png",
        quality=request.quality_level,
        seed=job.seed,
        n=job.n,
        inputs=tuple(Size(*image.size) for image in inputs),
    )
