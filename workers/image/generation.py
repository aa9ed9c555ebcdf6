"""From image requests to what is drawn, and from what was drawn to answers. Pure.

Rules: defaults that depend on the model come from its settings, whose table is the family's; everything
is bytes or data at the end, so that a test needs neither a server nor a model.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

from contracts.capabilities import EditWay
from contracts.families import Quality
from contracts.media import Size
from contracts.settings.models import ImageSettings
from contracts.wire.images import (
    ImageData,
    ImageEditRequest,
    ImageRequest,
    ImagesResponse,
    ImageStreamEvent,
    ImageUsage,
    InputTokenDetails,
    OutputTokenDetails,
)
from web import sse
from workers.engine import ImageJob
from workers.serving.answers import Identity

PATCH = 16  # pixels: what an image counts in tokens
_SEEDS = 2**64


def steps_to_run(steps: int, strength: float) -> int:
    """How many of *steps* redraw a picture: 1 redraws it wholly, near 0 runs a single step."""
    return min(max(math.ceil(round(steps * strength, 6)), 1), steps)


def chosen_seed(seed: int | None) -> int:
    """0 is a seed; none is drawn at random, small enough for people and for JavaScript."""
    return secrets.randbits(32) if seed is None else seed


def chosen_steps(request: ImageRequest, settings: ImageSettings) -> int:
    if request.steps is not None:
        return request.steps
    return settings.default_steps(request.quality_level, edit=isinstance(request, ImageEditRequest))


def job_of(
    request: ImageRequest,
    settings: ImageSettings,
    size: Size,
    steps: int,
    run_steps: int,
    **inputs: Any,
) -> ImageJob:
    """What the request asks for with *inputs*: the pictures and the mask of a job."""
    return ImageJob(
        prompt=request.prompt,
        width=size.width,
        height=size.height,
        steps=steps,
        run_steps=run_steps,
        guidance=settings.default_guidance if request.guidance is None else request.guidance,
        seed=chosen_seed(request.seed),
        n=request.n or 1,
        negative_prompt=request.negative_prompt or None,
        previews=(request.partial_images or 0) if request.stream else 0,
        **inputs,
    )


def recipe(
    request: ImageRequest, job: ImageJob, settings: ImageSettings, alias: str, way: EditWay | None
) -> dict[str, Any]:
    """The request that draws *job*'s first picture again, with its route; an edit wants its pictures.

    What is not in it is the default of every model. *way* is None for what is drawn from words alone.
    """
    family = settings.traits
    found: dict[str, Any] = {
        "route": "/v1/images/generations" if way is None else "/v1/images/edits",
        "prompt": request.prompt,
        "model": alias,
        "size": f"{job.width}x{job.height}",
        "steps": job.steps,
        "seed": job.seed,
    }
    if family.guidance:
        found["guidance"] = job.guidance
    if job.negative_prompt is not None:
        found["negative_prompt"] = job.negative_prompt
    if way == "strength" and isinstance(request, ImageEditRequest):
        found["strength"] = request.strength_or_default
    if request.output_format not in (None, "png"):
        found["output_format"] = request.output_format
        if request.output_compression is not None:
            found["output_compression"] = request.output_compression
    return found


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """Everything about the answer but the pictures. *sources*: the sizes of what was looked at.

    *kind* begins the names of events: image_generation or image_edit.
    """

    who: Identity
    kind: str
    prompt: str
    size: Size
    output_format: str
    quality: Quality
    seed: int
    n: int
    sources: tuple[Size, ...] = ()

    def usage(self, *, n: int, seed: int, prompt_tokens: int, latency_s: float) -> ImageUsage:
        seen = sum(patches(source) for source in self.sources)
        drawn = patches(self.size) * n
        return ImageUsage(
            latency=round(latency_s, 3),
            seed=seed,
            input_tokens=prompt_tokens + seen,
            input_tokens_details=InputTokenDetails(image_tokens=seen, text_tokens=prompt_tokens),
            output_tokens=drawn,
            output_tokens_details=OutputTokenDetails(image_tokens=drawn),
            total_tokens=prompt_tokens + seen + drawn,
        )

    def whole(self, pictures: list[str], *, prompt_tokens: int, latency_s: float) -> bytes:
        """An ``ImagesResponse`` with *pictures* (base64)."""
        usage = self.usage(n=self.n, seed=self.seed, prompt_tokens=prompt_tokens, latency_s=latency_s)
        data = [
            ImageData(b64_json=text, revised_prompt=self.prompt, seed=self.seed_of(index))
            for index, text in enumerate(pictures)
        ]
        answer = ImagesResponse.model_validate(
            {
                "created": self.who.created,
                "data": data,
                "output_format": self.output_format,
                "quality": None if self.quality == "auto" else self.quality,
                "size": str(self.size),
                "model": self.who.model,
                "usage": usage,
            }
        )
        return answer.model_dump_json(exclude_none=True).encode()

    def partial(self, index: int, number: int, picture: str) -> bytes:
        """The event for preview *number* of picture *index*."""
        return self._event("partial_image", index, picture, partial_image_index=number)

    def completed(self, index: int, picture: str, *, prompt_tokens: int, latency_s: float) -> bytes:
        """The event for picture *index*, which took *latency_s* seconds."""
        usage = self.usage(
            n=1, seed=self.seed_of(index), prompt_tokens=prompt_tokens, latency_s=latency_s
        )
        return self._event("completed", index, picture, usage=usage)

    def _event(self, what: str, index: int, picture: str, **more: Any) -> bytes:
        event = ImageStreamEvent.model_validate(
            {
                "type": f"{self.kind}.{what}",
                "b64_json": picture,
                "created_at": self.who.created,
                "output_format": self.output_format,
                "quality": self.quality,
                "size": str(self.size),
                "image_index": index,
                **more,
            }
        )
        return sse.event(event.data(), name=event.type)

    def seed_of(self, index: int) -> int:
        """The seed of picture *index*."""
        return (self.seed + index) % _SEEDS


def patches(size: Size) -> int:
    return math.ceil(size.width / PATCH) * math.ceil(size.height / PATCH)
