"""Each step of an image: report it, apply the mask, make a preview.

mflux calls back before the first step and after each, with latents that are not computed yet. They are
its own array: values written into it are where the next step starts, and so the mask is applied.
A step of these flow models goes from x(t) along v to x(t+1) = x(t) + (sigma(t+1) - sigma(t)) v. Two
latents in a row therefore give v, and with it the image that the step heads for,
x0 = x(t) - sigma(t) v: a preview without noise, and without another run of the transformer.

Imports mlx when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from PIL import Image

from workers.engine import ImageEvent, ImageJob, Preview, StepFinished

PREVIEW_SIDE = 256  # pixels: the longer side of a preview, at most
_CELL = 8  # pixels: the side of the square that one latent stands for

Emit = Callable[[ImageEvent | None], None]


class StepCallback:
    """mflux calls it. The engine calls ``start`` for a job, ``begin`` for each image, then ``end``."""

    def __init__(self, adapter: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps = 0  # of all jobs
        self.step_seconds = 0.0
        self._clock = clock
        self._started = 0.0  # the current step
        self._adapter = adapter
        self._job: ImageJob | None = None
        self._emit: Emit | None = None
        self._preview_steps: tuple[int, ...] = ()
        self._index = self._step = 0
        # mx.array: the mask, the clean source, its noise, the latents before the step
        self._mask: Any = None
        self._clean: Any = None
        self._noise: Any = None
        self._previous: Any = None

    def start(self, job: ImageJob, emit: Emit) -> None:
        self._job, self._emit = job, emit
        self._preview_steps = preview_steps(job.run_steps, job.previews)
        if job.mask is not None and job.source is not None and not self._adapter.native_mask:
            self._mask = latent_mask(self._adapter, job.mask)
            self._clean = self._adapter.clean(job.source)

    def begin(self, index: int) -> None:
        assert self._emit is not None
        self._index, self._step, self._previous = index, 0, None
        self._emit(None)

    def end(self) -> None:
        """Release everything that belongs to the job."""
        self._job = self._emit = None
        self._preview_steps = ()
        self._mask = self._clean = self._noise = self._previous = None

    # --- mflux calls -------------------------------------------------------------------------------

    def call_before_loop(self, *, latents: Any, config: Any, **_: Any) -> None:
        if self._job is None:
            return
        if self._clean is not None:
            # The latents are noise, or the source with a share sigma of noise.
            sigma = config.scheduler.sigmas[config.init_time_step]
            self._noise = (latents - (1 - sigma) * self._clean) / sigma
        if self._preview_steps:
            self._previous = latents + 0
        self._started = self._clock()

    def call_in_loop(self, t: int, *, latents: Any, config: Any, **_: Any) -> None:
        if self._job is None or self._emit is None:
            return
        # MLX is lazy: this computes the step.
        mx.eval(latents)
        self._step += 1
        self.steps += 1
        self.step_seconds += self._clock() - self._started
        self._emit(StepFinished(self._index, self._step, self._job.run_steps))
        sigmas = config.scheduler.sigmas
        if self._step in self._preview_steps:
            self._preview(t, latents, sigmas)
        if self._clean is not None:
            self._restore_source(latents, sigmas[t + 1])
        if self._preview_steps:
            self._previous = latents + 0  # a copy: mflux writes into its array
        self._started = self._clock()  # previews do not count

    # --- masks -------------------------------------------------------------------------------------

    def _restore_source(self, latents: Any, sigma: Any) -> None:
        """Write the source, with this step's noise, to where the mask forbids changes."""
        source = (1 - sigma) * self._clean + sigma * self._noise
        latents[...] = self._masked(latents, source).astype(latents.dtype)

    def _masked(self, generated: Any, source: Any) -> Any:
        return self._mask * generated + (1 - self._mask) * source

    # --- previews ----------------------------------------------------------------------------------

    def _preview(self, t: int, latents: Any, sigmas: Any) -> None:
        job, adapter = self._job, self._adapter
        assert job is not None
        assert self._emit is not None
        estimate = final_latents(self._previous, latents, sigmas[t], sigmas[t + 1])
        if self._clean is not None:
            estimate = self._masked(estimate, self._clean)
        spatial = adapter.spatial(estimate.astype(latents.dtype), job.width, job.height)
        image = adapter.decode(pooled(spatial, preview_factor(job.width, job.height)))
        if job.mask is not None and job.source is not None:
            size = image.size
            image = Image.composite(image, job.source.resize(size), job.mask.resize(size))
        number = self._preview_steps.index(self._step)
        self._emit(Preview(self._index, number, image.width, image.height, image.tobytes()))


def final_latents(before: Any, after: Any, sigma: Any, next_sigma: Any) -> Any:
    """The final latents that the step from *before* to *after* heads for."""
    velocity = (after.astype(mx.float32) - before.astype(mx.float32)) / (next_sigma - sigma)
    return before.astype(mx.float32) - sigma * velocity


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """The *steps* (from 1) that a preview follows: evenly spread, never the last."""
    spread = [round(steps * (number + 1) / (previews + 1)) for number in range(previews)]
    return tuple(step for step in dict.fromkeys(spread) if 0 < step < steps)


def preview_factor(width: int, height: int) -> int:
    """How many latents of a side become one: two, or more if the preview would be too large."""
    return max(2, -(-max(width, height) // PREVIEW_SIDE))


def pooled(spatial: Any, factor: int) -> Any:
    """The mean of each *factor* x *factor* latents; the edge is padded with its own values."""
    _, _, height, width = spatial.shape
    down, right = -height % factor, -width % factor
    spatial = mx.pad(spatial, [(0, 0), (0, 0), (0, down), (0, right)], mode="edge")
    batch, channels, height, width = spatial.shape
    cells = spatial.reshape(batch, channels, height // factor, factor, width // factor, factor)
    return cells.mean(axis=(3, 5))


def latent_mask(adapter: Any, mask: Image.Image) -> Any:
    """*mask* for packed latents: 1 if any pixel of the latent's cell may be redrawn, else 0."""
    width, height = mask.size
    cells = mask.point(lambda value: 255 * (value > 0)).reduce(_CELL)
    values = mx.array(list(cells.tobytes())).reshape(1, 1, height // _CELL, width // _CELL)
    spatial = mx.broadcast_to(values > 0, (1, adapter.channels, *values.shape[2:]))
    return adapter.pack(spatial.astype(mx.float32), width, height)
