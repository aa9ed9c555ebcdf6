"""The image engine: a batch of one, on mflux's models.

Rules: a family's needs are in its adapter (``workers.image.families``); ``workers.image.steps`` handles
each step. Nothing imports mlx or mflux before ``load``, which runs on the model thread. Memory kept
between jobs is bounded: encoded prompts in bytes, buffers by MLX's cache limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from contracts.control import Caches, Phase, Work
from contracts.revisions import chosen
from contracts.settings.models import ImageSettings
from workers.backend import buffers, runtime
from workers.engine import (
    Cancelled,
    ImageEvent,
    ImageFinished,
    ImageJob,
    LoadError,
    Located,
    PromptEncoded,
    Report,
)
from workers.hub import model_files, remote_code
from workers.hub.snapshots import FilePatterns
from workers.image import families
from workers.serial_engine import SerialEngine
from workers.serving.model_thread import first_line

log = logging.getLogger(__name__)

_SEEDS = 2**64
MIB = 1 << 20

# The modules that loading and generating import. A standby worker imports them ahead of time.
LIBRARIES = (
    *dict.fromkeys(source.module for source in families.SOURCES.values()),
    "workers.image.steps",
    "mflux.callbacks.generation_context",
    "mflux.models.common.resolution.model_revisions",
    "mflux.models.common.vae.tiling_config",
    *dict.fromkeys(name for source in families.SOURCES.values() for name in source.libraries),
)

Emit = Callable[[ImageEvent | None], None]


def locate(alias: str, settings: ImageSettings, report: Report, *, newest: bool = False) -> Located:
    """The checkpoint's files, downloaded if necessary. Raises ``LoadError``."""
    # The only part of mflux that imports no networks.
    from mflux.models.common.resolution.model_revisions import ModelRevisions

    files = families.SOURCES[settings.family].files
    return model_files.locate(
        settings.path,
        alias,
        wanted=FilePatterns(
            files, required=tuple(name for name in files if name.endswith(".safetensors"))
        ),
        report=report,
        revision=chosen(settings.path, settings.revision, ModelRevisions.get(settings.path)),
        newest=newest,
    )


class MfluxEngine(SerialEngine[ImageJob, ImageEvent]):
    def __init__(self, alias: str, settings: ImageSettings, wired_limit: int = 0) -> None:
        """*wired_limit*: bytes of wired memory; 0 wires nothing."""
        super().__init__()
        self._wired_limit = wired_limit
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._adapter: Any = None
        self._watch: Any = None
        self._large_images = 0  # images large enough to show how much memory the model needs
        self.located = Located(Path())

    # --- loading -----------------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        report(Phase.IMPORTING, "")
        runtime.prepare(self._settings.cache_limit_mb * MIB)
        # Before the networks, which take seconds to import: most failed loads are a wrong path.
        self.located = locate(self._alias, self._settings, report)
        folder = self.located.folder
        remote_code.forbid(folder)
        from workers.image import steps

        report(Phase.LOADING, "")
        try:
            self._adapter = families.load(folder, self._settings, report)
        except LoadError as exc:
            raise LoadError(f"{self._key}: {folder}: {exc}") from exc
        except Exception as exc:
            log.warning("mflux failed to load the model", exc_info=True)
            raise self._unusable(exc) from exc
        runtime.limit_memory(self._settings.memory_bytes, self._wired_limit)
        self._watch = steps.StepCallback(self._adapter)
        # Registered once, for the life of the model: mflux cannot unregister a callback.
        self._adapter.callbacks.register(self._watch)
        report(Phase.WARMING_UP, "")
        try:
            self._warm_up()
        except Exception as exc:
            log.warning("the first image failed", exc_info=True)
            raise self._unusable(exc) from exc
        self._watch.steps, self._watch.step_seconds, self._large_images = 0, 0.0, 0

    def _unusable(self, exc: Exception) -> LoadError:
        return LoadError(
            f"{self._key}: the checkpoint can't be used: {type(exc).__name__}: {first_line(exc)}"
        )

    def _warm_up(self) -> None:
        """Run one step from a gray image: compiles the kernels and checks that all parts fit."""
        family = self._settings.traits
        gray = Image.new("RGB", (32, 32), "gray")
        inputs: dict[str, Any] = {"source": gray}
        if family.mask == "native":
            inputs["mask"] = Image.new("L", (32, 32), 255)
        elif not family.strength_edit:
            inputs = {"references": (gray,)}
        run_steps = 1 if family.strength_edit else 2
        guidance = self._settings.default_guidance
        job = ImageJob("a gray square", 32, 32, 2, run_steps, guidance, 0, **inputs)
        self.run(job, lambda event: None)

    # --- running -----------------------------------------------------------------------------------

    def run(self, job: ImageJob, emit: Emit) -> None:
        cancelled = False
        try:
            emit(PromptEncoded(self._adapter.tokens(job.prompt)))
            self._generate(job, emit)
        except Cancelled:
            # This exception holds mflux's frames, and with them the latents, so raise a new one.
            cancelled = True
        finally:
            self._watch.end()
            self._adapter.prompts.trim()
        if cancelled:
            raise Cancelled

    def _generate(self, job: ImageJob, emit: Emit) -> None:
        adapter, watch = self._adapter, self._watch
        adapter.tile(job.width, job.height)
        adapter.encode(job.prompt)
        watch.start(job, emit)
        strength = mflux_strength(job.steps, job.run_steps)
        for index in range(job.n):
            watch.begin(index)
            image = adapter.generate(job, (job.seed + index) % _SEEDS, strength).convert("RGB")
            if job.mask is not None:
                image = Image.composite(image, job.source, job.mask)
            self._large_images += job.width * job.height >= self._settings.large_image_pixels
            emit(ImageFinished(index, image.width, image.height, image.tobytes()))

    def rest(self) -> bool:
        return buffers.give_back(0)

    def work(self) -> Work:
        watch = self._watch
        if watch is None:
            return Work()
        return Work(
            steps=watch.steps, step_seconds=watch.step_seconds, large_pictures=self._large_images
        )

    def caches(self) -> Caches:
        adapter = self._adapter
        return Caches() if adapter is None else Caches(prompts=adapter.prompts.nbytes)

    def close(self) -> None:
        import mlx.core as mx

        self._adapter = self._watch = None
        if clear := getattr(mx, "clear_streams", None):
            clear()


def mflux_strength(steps: int, run_steps: int) -> float | None:
    """mflux's ``image_strength`` that runs the last *run_steps* of *steps*.

    mflux counts the other way: it skips that share of the first steps, rounded down. None: all steps
    run, from noise.
    """
    if run_steps >= steps:
        return None
    return (steps - run_steps) / steps + 1e-6
