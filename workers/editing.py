"""From an edit request to a job: its pictures and its mask read, cut and scaled for the model.

Rules: those of ``workers.media``: it decodes, so it runs in worker threads. A picture is never
stretched: where a size of another aspect is asked for, what stands over is cut off, of the mask too.
"""

from __future__ import annotations

from typing import Any

from contracts.abilities import EditWay
from contracts.media import Size, fit_size, read_image_field
from contracts.openai import ImageEditRequest
from contracts.settings_models import ImageSettings
from workers import drawing, masks, media
from workers.engine import ImageJob


def edit_job(
    request: ImageEditRequest, way: EditWay, settings: ImageSettings, asked: Size | None
) -> ImageJob:
    """*asked*: the size that the request names; None: that of its first picture, as far as it may be.

    Raises ``InvalidRequest`` naming ``image`` or ``mask`` for what can't be read or does not fit.
    """
    pictures = [media.read_image(text, name) for name, text in request.pictures]
    own = Size(*pictures[0].size)
    size = asked or fit_size(own, max_pixels=settings.max_pixels)
    source = media.cover(pictures[0], size)
    mask = None
    if request.mask:
        mask = masks.cover(masks.read(read_image_field(request.mask, masks.PARAM), own), size)
    steps = drawing.chosen_steps(request, settings)
    inputs: dict[str, Any] = {"mask": mask}
    if way == "instruction":
        # What is pasted back where the mask forbids a change must lie where the model saw it.
        first = source if mask is not None else _as_seen(pictures[0], settings)
        inputs["references"] = (first, *(_as_seen(picture, settings) for picture in pictures[1:]))
        if mask is not None:
            inputs["source"] = source
    else:
        inputs["source"] = source
    partly = way == "strength"
    run_steps = drawing.steps_to_run(steps, request.strength_or_default) if partly else steps
    return drawing.job_of(request, settings, size, steps, run_steps, **inputs)


def _as_seen(picture: media.Picture, settings: ImageSettings) -> media.Picture:
    """*picture* in a size that a model can look at: sides that are multiples of 16, bounded."""
    return media.cover(picture, fit_size(Size(*picture.size), max_pixels=settings.max_pixels))
