"""The image engine: mflux's FLUX.1 (schnell, dev).

Rules: with ``flux`` the only importer of mflux, and only on the model thread, inside ``load``. One
callback is registered for the life of the model (mflux can't take one back) and asks at each step
whether the job still matters. What mflux keeps is bounded: prompts by an LRU, buffers by MLX's limit.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from contracts.control import Phase
from contracts.settings import ImageSettings
from workers import hub, runtime
from workers.engine import Drawn, Encoded, ImageEvent, ImageJob, LoadError, Report, Stepped
from workers.thread import first_line

log = logging.getLogger(__name__)

# What mflux's FluxWeightDefinition downloads, weights and tokenizers.
FILES = (
    *(
        f"{part}/*.{kind}"
        for part in ("text_encoder", "text_encoder_2", "transformer", "vae")
        for kind in ("safetensors", "json")
    ),
    "tokenizer/**",
    "tokenizer_2/**",
)
_SEEDS = 2**64
_PROMPTS_KEPT = 16  # 2-4 MiB each at full size
_TILED_FROM = 1024 * 1024  # pixels; the VAE's peak would be half as much again as the weights

# What loading and drawing import; a standby does it ahead.
LIBRARIES = (
    "workers.flux",
    "mflux.callbacks.generation_context",
    "mflux.models.common.resolution.model_revisions",
    "mflux.models.common.vae.tiling_config",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.t5.tokenization_t5",
)

Emit = Callable[[ImageEvent | None], None]


def locate(alias: str, settings: ImageSettings, report: Report) -> Path:
    """The folder of the checkpoint, after downloading it; raises ``LoadError``."""
    # The one part of mflux that brings no network along.
    from mflux.models.common.resolution.model_revisions import ModelRevisions  # noqa: TID251

    revision = ModelRevisions.get(settings.path)
    return hub.locate(settings.path, alias, patterns=FILES, report=report, revision=revision)


class FluxEngine:
    def __init__(self, alias: str, settings: ImageSettings) -> None:
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._model: Any = None
        self._steps: _StepDispatcher | None = None

    # --- loading -----------------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        report(Phase.IMPORTING, "")
        runtime.prepare()
        # Before the networks, which take seconds to import: most failed loads are a wrong path.
        folder = locate(self._alias, self._settings, report)
        from workers import flux

        report(Phase.LOADING, "")
        try:
            self._model = flux.load(folder, self._settings)
        except LoadError as exc:
            raise LoadError(f"{self._key}: {folder}: {exc}") from exc
        except Exception as exc:
            log.warning("mflux failed to load the model", exc_info=True)
            raise self._unfit(exc) from exc
        self._model.prompt_cache = PromptCache(_PROMPTS_KEPT)
        self._steps = _StepDispatcher()
        self._model.callbacks.register(self._steps)
        report(Phase.WARMING_UP, "")
        try:
            self._warm_up()
        except Exception as exc:
            log.warning("the first picture failed", exc_info=True)
            raise self._unfit(exc) from exc

    def _unfit(self, exc: Exception) -> LoadError:
        return LoadError(
            f"{self._key}: the checkpoint can't be used: {type(exc).__name__}: {first_line(exc)}"
        )

    def _warm_up(self) -> None:
        """One step from a grey picture: compiles the kernels and proves that all parts fit."""
        source = Image.new("RGB", (64, 64), "grey")
        job = ImageJob("a grey square", 64, 64, 2, 1, self._settings.default_guidance, 0, source=source)
        self.run(job, lambda event: None)

    # --- running -----------------------------------------------------------------------------------

    def run(self, job: ImageJob, emit: Emit) -> None:
        import mlx.core as mx  # noqa: TID251 - this is the image engine
        from mflux.models.common.vae.tiling_config import TilingConfig  # noqa: TID251

        assert self._steps is not None
        emit(Encoded(self._prompt_tokens(job.prompt)))
        strength = mflux_strength(job.steps, job.run_steps)
        tiled = job.width * job.height >= _TILED_FROM
        self._model.tiling_config = TilingConfig() if tiled else None
        try:
            for index in range(job.n):
                self._steps.begin(index, job.run_steps, emit)
                image = self._model.generate_image(
                    seed=(job.seed + index) % _SEEDS,
                    prompt=job.prompt,
                    num_inference_steps=job.steps,
                    width=job.width,
                    height=job.height,
                    guidance=job.guidance,
                    image_path=None if strength is None else job.source,
                    image_strength=strength,
                ).image
                emit(Drawn(index, image.width, image.height, image.convert("RGB").tobytes()))
        finally:
            self._steps.end()
            mx.clear_cache()

    def _prompt_tokens(self, prompt: str) -> int:
        t5 = self._model.tokenizers["t5"]
        ids = t5.tokenizer(prompt, truncation=True, max_length=t5.max_length)["input_ids"]
        return len(ids)

    def close(self) -> None:
        import mlx.core as mx  # noqa: TID251

        self._model = self._steps = None
        if clear := getattr(mx, "clear_streams", None):
            clear()


def mflux_strength(steps: int, run_steps: int) -> float | None:
    """mflux's ``image_strength`` for which the last *run_steps* of *steps* are run.

    It is reversed and rounded down: so many of the first steps are skipped. None: all are run, from
    noise alone.
    """
    if run_steps >= steps:
        return None
    return (steps - run_steps) / steps + 1e-6


class _StepDispatcher:
    """mflux's callback: passes each step on to the job that is running."""

    def __init__(self) -> None:
        self._emit: Emit | None = None
        self._index = self._step = self._steps = 0

    def begin(self, index: int, steps: int, emit: Emit) -> None:
        self._index, self._step, self._steps, self._emit = index, 0, steps, emit
        emit(None)

    def end(self) -> None:
        self._emit = None

    def call_in_loop(self, t: int, *, latents: Any = None, **_: Any) -> None:
        import mlx.core as mx  # noqa: TID251

        if self._emit is None:
            return
        # MLX is lazy: without this the step has not been computed yet.
        mx.eval(latents)
        self._step += 1
        self._emit(Stepped(self._index, self._step, self._steps))


class PromptCache(OrderedDict[str, Any]):
    """Takes the place of mflux's unbounded dict of encoded prompts."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __getitem__(self, prompt: str) -> Any:
        self.move_to_end(prompt)
        return super().__getitem__(prompt)

    def __setitem__(self, prompt: str, encoded: Any) -> None:
        import mlx.core as mx  # noqa: TID251

        mx.eval(encoded)  # a lazy entry would be computed again by each job that is cancelled early
        super().__setitem__(prompt, encoded)
        while len(self) > self._size:
            self.popitem(last=False)
