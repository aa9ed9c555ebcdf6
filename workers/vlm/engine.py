"""The vision-language engine: mlx-vlm, with many sequences per batch.

``prepare`` turns a job into a prompt, off the model thread (``architectures``). ``step`` has the next
step planned (``scheduler``, ``step_plan``) and executed (``runner``). Rules: only this package imports
mlx_vlm, in ``load`` and later; tests/workers/vlm/test_library_contracts.py lists its private names in
use.
"""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from contracts.control import Caches, Phase, Work
from contracts.errors import ContextLengthExceeded
from contracts.settings.models import VlmSettings
from workers.backend import buffers, runtime
from workers.engine import (
    ChatEvent,
    ChatJob,
    LoadError,
    Located,
    Report,
    Sampling,
    Sink,
    Turn,
)
from workers.hub import model_files, remote_code
from workers.serial_engine import run_job
from workers.serving.model_thread import first_line
from workers.vlm import architectures
from workers.vlm.chat_template import require_known_tokens
from workers.vlm.checkpoint import context_length, read_sampling_defaults, with_defaults
from workers.vlm.detokenizer import HfTokenizerView
from workers.vlm.files import is_moondream, locate, locate_tokenizer
from workers.vlm.prompt import Architecture
from workers.vlm.scheduler import Scheduler
from workers.vlm.sequence import PreparedJob, Sequence

if TYPE_CHECKING:  # these import MLX
    from workers.vlm.grammar import Vocabulary
    from workers.vlm.runner import Runner

log = logging.getLogger(__name__)

KEPT_BYTES = 64 << 20  # freed buffers kept between requests; freeing more costs more than it saves
_NO_CONTEXT_LIMIT = 1 << 30  # tokens
_TOWERS = ("vision_tower", "vision", "vision_model")
# The modules that loading and generating import. A standby worker imports them ahead of time.
LIBRARIES = (
    "mlx_vlm.models.moondream2",
    "mlx_vlm.models.qwen2_5_vl",
    "transformers.models.qwen2_5_vl.configuration_qwen2_5_vl",
    "workers.vlm.runner",
    "workers.vlm.architectures.templated",
)


class VlmEngine:
    """Runs one checkpoint: Moondream2, or any model with a chat template that mlx-vlm supports."""

    def __init__(self, alias: str, settings: VlmSettings, wired_limit: int = 0) -> None:
        """*wired_limit*: bytes of wired memory; 0 wires nothing."""
        self._wired_limit = wired_limit
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._model: Any = None
        self._processor: Any = None
        self._tokenizer: Any = None
        self._architecture: Architecture | None = None
        self._view: HfTokenizerView | None = None
        self._vocabulary: Vocabulary | None = None  # for grammars; built by ``prebuild`` or on demand
        self._context: int | None = None  # tokens
        self._sampling_defaults: dict[str, float] = {}  # the checkpoint's
        self._ids = itertools.count()
        self.scheduler = Scheduler(settings.max_concurrency, settings.prefill_tokens)
        self.runner: Runner | None = None
        self.located = Located(Path())

    # --- loading -----------------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        report(Phase.IMPORTING, "")
        runtime.prepare(runtime.cache_limit(self._settings.memory_bytes))
        # Before the library, which takes seconds to import: most failed loads are a wrong path.
        self.located = locate(self._alias, self._settings, report)
        folder = self.located.folder
        import mlx_vlm  # noqa: TID251 - this is the VLM engine

        report(Phase.LOADING, "")
        config = self._read_config(folder)
        if missing := model_files.lacking_in_folder(folder, model_files.VLM_FILES):
            raise LoadError(f"{self._key}: {folder} {missing}")
        trusted = self._settings.trust_remote_code
        if not trusted:
            remote_code.forbid(folder)
        moondream = is_moondream(config)
        if moondream:
            self._set_tokenizer_folder(folder, report)
        try:
            self._model, self._processor = mlx_vlm.load(str(folder), trust_remote_code=trusted)
        except Exception as exc:
            if not trusted and (code := remote_code.refused()):
                log.warning("mlx-vlm failed without the checkpoint's code: %s", first_line(exc))
                raise LoadError(
                    f"{self._key}: {folder} needs its own Python code ({code}), which is not run by"
                    f" default; if you trust it, set models.{self._alias}.trust_remote_code: true"
                ) from exc
            if not isinstance(exc, (ValueError, OSError)):
                log.warning("mlx-vlm failed to load the model", exc_info=True)
            raise self._unusable(exc) from exc
        self._require_vision(moondream)
        runtime.widen(self._model)
        runtime.limit_memory(self._settings.memory_bytes, self._wired_limit)
        self._context = context_length(config)
        if moondream and self._context is None:  # the published config.json gives no sizes
            self._context = self._model.config.text_config.max_position_embeddings
        self._sampling_defaults = read_sampling_defaults(folder)
        self._make_runner(config)
        report(Phase.WARMING_UP, "")
        try:
            self._warm_up()
        except Exception as exc:
            log.warning("the first generation failed", exc_info=True)
            raise self._unusable(exc) from exc

    def _read_config(self, folder: Path) -> dict[str, Any]:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise LoadError(f"{self._key}: {folder}: config.json can't be read: {exc}") from exc
        if not isinstance(config, dict):
            raise LoadError(f"{self._key}: {folder}: config.json is not an object")
        return config

    def _set_tokenizer_folder(self, folder: Path, report: Report) -> None:
        """mlx-vlm fetches Moondream's tokenizer from the Hub, even for a local checkpoint."""
        import mlx_vlm.models.moondream2.processing_moondream2 as processing  # noqa: TID251

        tokenizer = locate_tokenizer(self._alias, folder, report)
        if not self._settings.trust_remote_code:
            remote_code.forbid(tokenizer)
        processing.TOKENIZER_REPO = str(tokenizer)

    def _require_vision(self, moondream: bool) -> None:
        """Refuse checkpoints for which mlx-vlm would silently drop the images."""
        name = type(self._processor).__name__
        if moondream and name != "Moondream2Processor":
            raise LoadError(f"{self._key}: the processor is {name}: no Moondream2 tokenizer was found")
        if not moondream and not hasattr(self._processor, "image_processor"):
            raise LoadError(f"{self._key}: the checkpoint has no image processor ({name} only)")
        if any(getattr(self._model, tower, self) is None for tower in _TOWERS):
            raise LoadError(f"{self._key}: the checkpoint has no weights for its vision tower")

    def _unusable(self, exc: Exception) -> LoadError:
        kind = "" if isinstance(exc, ValueError) else f"{type(exc).__name__}: "
        return LoadError(f"{self._key}: the checkpoint can't be used: {kind}{first_line(exc)}")

    def _make_runner(self, config: dict[str, Any]) -> None:
        from workers.backend import cuda
        from workers.vlm.batch import Batch
        from workers.vlm.runner import Runner

        settings = self._settings
        self._architecture = architectures.load(config, self._model, self._processor, settings)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._view = HfTokenizerView(self._tokenizer)
        kv_bits = settings.kv_bits
        if is_moondream(config) and kv_bits is not None:
            log.warning("kv_bits is ignored: Moondream2's attention cannot read quantized keys")
            kv_bits = None
        if cuda.in_use():
            cuda.take_rows_together(self._model.language_model)
        batch = Batch(self._model.language_model, len(self._tokenizer), kv_bits)
        self.runner = Runner(self._architecture, batch, self.scheduler, settings)

    def _warm_up(self) -> None:
        """Generate two tokens, and build the graph for a gray image: compiles the kernels and checks
        that all parts fit.

        The image's graph is not evaluated: building it finds shapes that do not fit, and evaluating it
        would double the time from a cold start to the first token.
        """
        architecture, runner = self._architecture, self.runner
        assert architecture is not None
        assert runner is not None
        gray = Image.new("RGB", (56, 56), "gray")
        with_image, text_only = (
            ChatJob((Turn("user", parts),), Sampling(temperature=0), max_tokens=2)
            for parts in ((gray, "What is this?"), ("What is this?",))
        )
        prompt = architecture.make_prompt(with_image)
        features = [architecture.encode_image(image)[-1] for image in prompt.images]
        architecture.inputs(prompt, 0, features)
        try:
            run_job(self, text_only)
        except Exception:  # some models need an image
            run_job(self, with_image)
        runner.prefixes.clear()
        runner.counters.clear()

    # --- running -----------------------------------------------------------------------------------

    def prepare(self, job: ChatJob) -> PreparedJob:
        """Tokenize *job*, fill in the checkpoint's sampling defaults, and build its grammar matchers.

        Raises ``ApiError`` if the client is at fault.
        """
        architecture, view = self._architecture, self._view
        if architecture is None or view is None:
            raise RuntimeError("the model is not loaded")
        require_known_tokens(job.logit_bias, len(self._tokenizer))
        prompt = architecture.make_prompt(job)
        matchers: tuple[Any, ...] = ()
        max_tokens = min(job.max_tokens, self._tokens_left(len(prompt)))
        if job.grammar is not None:
            from workers.vlm.grammar import Matcher

            vocabulary = self._grammar_vocabulary(view)
            matchers = tuple(Matcher(vocabulary, job.grammar) for _ in range(job.n))
        sampling = with_defaults(job.sampling, job.unset, self._sampling_defaults)
        return PreparedJob(replace(job, max_tokens=max_tokens, sampling=sampling), prompt, matchers)

    def prebuild(self) -> None:
        """Build the vocabulary for grammars, which takes 1-2 s for 150,000 tokens."""
        if self._view is not None:
            self._grammar_vocabulary(self._view)

    def _grammar_vocabulary(self, view: HfTokenizerView) -> Vocabulary:
        from workers.vlm.grammar import Vocabulary

        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._tokenizer, len(self._tokenizer), view.end_ids)
        return self._vocabulary

    def _tokens_left(self, prompt_tokens: int) -> int:
        """The longest possible completion. Raises ``ContextLengthExceeded`` if the prompt fills the
        context."""
        if self._context is None:
            return _NO_CONTEXT_LIMIT
        if prompt_tokens >= self._context:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens; this model's context holds"
                f" {self._context}, completion included",
                param="messages",
            )
        return self._context - prompt_tokens

    def admit(self, prepared: PreparedJob, sink: Sink[ChatEvent]) -> None:
        from workers.vlm.sampler import SamplerState

        assert self._view is not None
        job, ids = prepared.job, prepared.prompt.ids
        for index in range(job.n):
            matcher = prepared.matchers[index] if prepared.matchers else None
            sampler = SamplerState.of(job, index, ids, matcher)
            sequence = Sequence(next(self._ids), prepared, index, sampler, self._view, sink)
            self.scheduler.add(sequence)

    @property
    def busy(self) -> bool:
        return self.scheduler.busy

    def step(self) -> None:
        assert self.runner is not None
        self.runner.run(self.scheduler.schedule())

    def rest(self) -> bool:
        return buffers.give_back(KEPT_BYTES)

    def work(self) -> Work:
        runner = self.runner
        return Work() if runner is None else Work(**runner.counters)

    def caches(self) -> Caches:
        runner = self.runner
        if runner is None:
            return Caches()
        return Caches(prompts=runner.prefixes.nbytes, pictures=runner.features.nbytes)

    def close(self) -> None:
        from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

        self._model = self._processor = self._tokenizer = None
        self._architecture = self._view = self.runner = self._vocabulary = None
        self.scheduler.sequences.clear()
        clear_mlx_streams()
