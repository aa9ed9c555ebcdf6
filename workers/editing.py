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
    (name, text), *others = request.pictures

    def read(picture: media.Picture) -> tuple[Size, Size, media.Picture, media.Picture]:
        own = Size(*picture.size)
        size = asked or fit_size(own, max_pixels=settings.max_pixels)
        return own, size, media.cover(picture, size), _as_seen(picture, settings)

    own, size, source, seen = media.read_as(text, name, read)
    mask = None
    if request.mask:
        mask = masks.cover(masks.read(read_image_field(request.mask, masks.PARAM), own), size)
    steps = drawing.chosen_steps(request, settings)
    inputs: dict[str, Any] = {"mask": mask}
    if way == "instruction":
        # What is pasted back where the mask forbids a change must lie where the model saw it.
        first = source if mask is not None else seen
        rest = [media.read_as(t, n, lambda picture: _as_seen(picture, settings)) for n, t in others]
        inputs["references"] = (first, *rest)
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
