"""From an image request to a job for the engine, and to its recipe: the request that repeats it.

Rules: defaults that depend on the model come from its settings, which know the family's. ``edit_job``
decodes images, so it runs in worker threads (``workers.serving.image_codec``). Images are never
stretched: if the requested size has another aspect ratio, image and mask are cropped.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

from PIL.Image import Image

from contracts.capabilities import EditWay
from contracts.media import Size, fit_size, parse_size, read_image_field
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImageRequest
from workers.engine import ImageJob
from workers.image import masks
from workers.serving import image_codec


def generation_job(request: ImageGenerationRequest, settings: ImageSettings) -> ImageJob:
    size = requested_size(request, settings)
    if size is None:
        size = parse_size(settings.size, max_pixels=settings.max_pixels)
    steps = chosen_steps(request, settings)
    return image_job(request, settings, size, steps, steps)


def edit_job(
    request: ImageEditRequest, way: EditWay, settings: ImageSettings, requested: Size | None
) -> ImageJob:
    """The job with its images and mask. Without a *requested* size, it has the first image's, bounded.

    Raises ``InvalidRequest`` naming ``image`` or ``mask`` if one is unreadable or does not fit.
    """
    (name, text), *others = request.input_images

    def prepare(image: Image) -> tuple[Size, Size, Image, Image]:
        own = Size(*image.size)
        size = requested or fit_size(own, max_pixels=settings.max_pixels)
        return own, size, image_codec.cover(image, size), _reference(image, settings)

    own, size, source, reference = image_codec.read_as(text, name, prepare)
    mask = None
    if request.mask:
        mask = masks.cover(masks.read(read_image_field(request.mask, masks.PARAM), own), size)
    steps = chosen_steps(request, settings)
    inputs: dict[str, Any] = {"mask": mask}
    if way == "instruction":
        # With a mask, the model must see the source where its pixels will be pasted back.
        first = source if mask is not None else reference
        rest = [image_codec.read_as(t, n, lambda image: _reference(image, settings)) for n, t in others]
        inputs["references"] = (first, *rest)
        if mask is not None:
            inputs["source"] = source
    else:
        inputs["source"] = source
    run_steps = steps
    if way == "strength":
        run_steps = steps_to_run(steps, request.strength_or_default)
    return image_job(request, settings, size, steps, run_steps, **inputs)


def image_job(
    request: ImageRequest,
    settings: ImageSettings,
    size: Size,
    steps: int,
    run_steps: int,
    **inputs: Any,
) -> ImageJob:
    """The job for *request*; *inputs* are the images and the mask of an ``ImageJob``."""
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


def requested_size(request: ImageRequest, settings: ImageSettings) -> Size | None:
    """The size in the request; None for the default: the model's, or the source's for edits."""
    if request.size in (None, "", "auto"):
        return None
    return parse_size(str(request.size), max_pixels=settings.max_pixels)


def chosen_steps(request: ImageRequest, settings: ImageSettings) -> int:
    if request.steps is not None:
        return request.steps
    return settings.default_steps(request.quality_level, edit=isinstance(request, ImageEditRequest))


def steps_to_run(steps: int, strength: float) -> int:
    """How many of *steps* an edit runs: all at strength 1, a single one near 0."""
    return min(max(math.ceil(round(steps * strength, 6)), 1), steps)


def chosen_seed(seed: int | None) -> int:
    """*seed*, or a random one of 32 bits, which people can type and JavaScript can represent."""
    return secrets.randbits(32) if seed is None else seed


def recipe(
    request: ImageRequest, job: ImageJob, settings: ImageSettings, alias: str, way: EditWay | None
) -> dict[str, Any]:
    """The request that reproduces the job's first image, with its route; an edit also needs its inputs.

    Fields that have every model's default are left out. *way* is None for a generation.
    """
    family = settings.traits
    fields: dict[str, Any] = {
        "route": "/v1/images/generations" if way is None else "/v1/images/edits",
        "prompt": request.prompt,
        "model": alias,
        "size": f"{job.width}x{job.height}",
        "steps": job.steps,
        "seed": job.seed,
    }
    if family.guidance:
        fields["guidance"] = job.guidance
    if job.negative_prompt is not None:
        fields["negative_prompt"] = job.negative_prompt
    if way == "strength" and isinstance(request, ImageEditRequest):
        fields["strength"] = request.strength_or_default
    if request.output_format not in (None, "png"):
        fields["output_format"] = request.output_format
        if request.output_compression is not None:
            fields["output_compression"] = request.output_compression
    return fields


def _reference(image: Image, settings: ImageSettings) -> Image:
    """*image* in a size that a model can attend to: sides in multiples of 16, bounded."""
    return image_codec.cover(image, fit_size(Size(*image.size), max_pixels=settings.max_pixels))
