"""The image engine: mflux's models, one at a time, each job watched from step to step.

Rules: what a family needs is its adapter's (``workers.image.families``), what happens at each step is
``workers.image.steps``; nothing of mlx or mflux is imported before ``load``, which runs on the model
thread.
What is kept between jobs is bounded: prompts in bytes, buffers by MLX's limit.
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
from workers.engine import Cancelled, Drawn, Encoded, ImageEvent, ImageJob, LoadError, Located, Report
from workers.hub import model_files, remote_code
from workers.hub.copies import Wanted
from workers.image import families
from workers.serving.model_thread import first_line

log = logging.getLogger(__name__)

_SEEDS = 2**64
MIB = 1 << 20

# What loading and drawing import; a standby does it ahead.
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
    """Where the checkpoint is, after downloading it; raises ``LoadError``."""
    # The one part of mflux that brings no network along.
    from mflux.models.common.resolution.model_revisions import ModelRevisions

    files = families.SOURCES[settings.family].files
    return model_files.locate(
        settings.path,
        alias,
        wanted=Wanted(files, needed=tuple(name for name in files if name.endswith(".safetensors"))),
        report=report,
        revision=chosen(settings.path, settings.revision, ModelRevisions.get(settings.path)),
        newest=newest,
    )


class MfluxEngine:
    def __init__(self, alias: str, settings: ImageSettings, wired_limit: int = 0) -> None:
        """*wired_limit*: bytes; 0: nothing is wired."""
        self._wired_limit = wired_limit
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._adapter: Any = None
        self._watch: Any = None
        self._large = 0  # pictures that show what the model needs
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
            raise self._unfit(exc) from exc
        runtime.limit_memory(self._settings.memory_bytes, self._wired_limit)
        self._watch = steps.Watch(self._adapter)
        # One for the life of the model: mflux can't take a callback back.
        self._adapter.callbacks.register(self._watch)
        report(Phase.WARMING_UP, "")
        try:
            self._warm_up()
        except Exception as exc:
            log.warning("the first picture failed", exc_info=True)
            raise self._unfit(exc) from exc
        self._watch.steps, self._watch.step_seconds, self._large = 0, 0.0, 0

    def _unfit(self, exc: Exception) -> LoadError:
        return LoadError(
            f"{self._key}: the checkpoint can't be used: {type(exc).__name__}: {first_line(exc)}"
        )

    def _warm_up(self) -> None:
        """One step from a grey picture: compiles the kernels and proves that all parts fit."""
        family = self._settings.traits
        grey = Image.new("RGB", (32, 32), "grey")
        inputs: dict[str, Any] = {"source": grey}
        if family.mask == "native":
            inputs["mask"] = Image.new("L", (32, 32), 255)
        elif not family.strength_edit:
            inputs = {"references": (grey,)}
        whole = not family.strength_edit
        guidance = self._settings.default_guidance
        self.run(ImageJob("a grey square", 32, 32, 2, 2 if whole else 1, guidance, 0, **inputs), _drop)

    # --- running -----------------------------------------------------------------------------------

    def run(self, job: ImageJob, emit: Emit) -> None:
        cancelled = False
        try:
            emit(Encoded(self._adapter.tokens(job.prompt)))
            self._draw(job, emit)
        except Cancelled:
            # mflux's frames, and the latents in them, live as long as this exception does.
            cancelled = True
        finally:
            self._watch.end()
            self._adapter.prompts.trim()
        if cancelled:
            raise Cancelled

    def _draw(self, job: ImageJob, emit: Emit) -> None:
        adapter, watch = self._adapter, self._watch
        adapter.tile(job.width, job.height)
        adapter.encode(job.prompt)
        watch.start(job, emit)
        strength = mflux_strength(job.steps, job.run_steps)
        for index in range(job.n):
            watch.begin(index)
            image = adapter.draw(job, (job.seed + index) % _SEEDS, strength).convert("RGB")
            if job.mask is not None:
                image = Image.composite(image, job.source, job.mask)
            self._large += job.width * job.height >= self._settings.large_image_pixels
            emit(Drawn(index, image.width, image.height, image.tobytes()))

    def rest(self) -> bool:
        return buffers.give_back(0)

    def work(self) -> Work:
        watch = self._watch
        if watch is None:
            return Work()
        return Work(steps=watch.steps, step_seconds=watch.step_seconds, large_pictures=self._large)

    def caches(self) -> Caches:
        adapter = self._adapter
        return Caches() if adapter is None else Caches(prompts=adapter.prompts.nbytes)

    def close(self) -> None:
        import mlx.core as mx

        self._adapter = self._watch = None
        if clear := getattr(mx, "clear_streams", None):
            clear()


def _drop(event: ImageEvent | None) -> None:
    pass


def mflux_strength(steps: int, run_steps: int) -> float | None:
    """mflux's ``image_strength`` for which the last *run_steps* of *steps* are run.

    It is reversed and rounded down: so many of the first steps are skipped. None: all are run, from
    noise alone.
    """
    if run_steps >= steps:
        return None
    return (steps - run_steps) / steps + 1e-6
