"""From an edit request to a job: its pictures and its mask read, cut and scaled for the model.

Rules: those of ``workers.serving.image_codec``: it decodes, so it runs in worker threads. A picture is
never
stretched: where a size of another aspect is asked for, what stands over is cut off, of the mask too.
"""

from __future__ import annotations

from typing import Any

from contracts.capabilities import EditWay
from contracts.media import Size, fit_size, read_image_field
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest
from workers.engine import ImageJob
from workers.image import generation, masks
from workers.serving import image_codec


def edit_job(
    request: ImageEditRequest, way: EditWay, settings: ImageSettings, asked: Size | None
) -> ImageJob:
    """*asked*: the size that the request names; None: that of its first picture, as far as it may be.

    Raises ``InvalidRequest`` naming ``image`` or ``mask`` for what can't be read or does not fit.
    """
    (name, text), *others = request.input_images

    def read(
        picture: image_codec.Picture,
    ) -> tuple[Size, Size, image_codec.Picture, image_codec.Picture]:
        own = Size(*picture.size)
        size = asked or fit_size(own, max_pixels=settings.max_pixels)
        return own, size, image_codec.cover(picture, size), _as_seen(picture, settings)

    own, size, source, seen = image_codec.read_as(text, name, read)
    mask = None
    if request.mask:
        mask = masks.cover(masks.read(read_image_field(request.mask, masks.PARAM), own), size)
    steps = generation.chosen_steps(request, settings)
    inputs: dict[str, Any] = {"mask": mask}
    if way == "instruction":
        # What is pasted back where the mask forbids a change must lie where the model saw it.
        first = source if mask is not None else seen
        rest = [
            image_codec.read_as(t, n, lambda picture: _as_seen(picture, settings)) for n, t in others
        ]
        inputs["references"] = (first, *rest)
        if mask is not None:
            inputs["source"] = source
    else:
        inputs["source"] = source
    partly = way == "strength"
    run_steps = generation.steps_to_run(steps, request.strength_or_default) if partly else steps
    return generation.job_of(request, settings, size, steps, run_steps, **inputs)


def _as_seen(picture: image_codec.Picture, settings: ImageSettings) -> image_codec.Picture:
    """*picture* in a size that a model can look at: sides that are multiples of 16, bounded."""
    return image_codec.cover(picture, fit_size(Size(*picture.size), max_pixels=settings.max_pixels))
