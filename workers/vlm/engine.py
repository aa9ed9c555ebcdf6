"""The vision-language engine: mlx-vlm, many requests at a time.

``read`` makes a prompt of a job, off the model thread (by the family of the model: ``templated``,
``moondream``); ``admit`` and ``step`` run it with others (``schedule``, on ``batch``, ``rows``,
``sampling``, ``caches``). Rules: mlx_vlm is imported by the modules of this engine only, in ``load``
and after; its private names that are used stand in tests/workers/test_library_contracts.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from contracts.control import Caches, Phase, Work
from contracts.errors import InvalidRequest
from contracts.settings.models import VlmSettings
from workers.backend import buffers, runtime
from workers.batch_engine import CallbackSink, Sink
from workers.engine import (
    ChatEvent,
    ChatJob,
    LoadError,
    Located,
    Report,
    Sampling,
    Turn,
    with_defaults,
)
from workers.hub import model_files, remote_code
from workers.serving.model_thread import first_line
from workers.vlm.chat_template import require_known
from workers.vlm.checkpoint import context_length, read_sampling_defaults
from workers.vlm.detokenizer import TokenizerWords
from workers.vlm.files import is_moondream, locate, locate_tokenizer
from workers.vlm.prompt import Family, Reading

if TYPE_CHECKING:  # these import MLX
    from workers.vlm.grammar import Vocabulary
    from workers.vlm.scheduler import Schedule

log = logging.getLogger(__name__)

KEPT_BYTES = (
    64 << 20
)  # freed buffers to keep between requests: giving back less costs more than it frees
_TOWERS = ("vision_tower", "vision", "vision_model")
# What loading and answering import; a standby does it ahead.
LIBRARIES = (
    "mlx_vlm.models.moondream2",
    "mlx_vlm.models.qwen2_5_vl",
    "transformers.models.qwen2_5_vl.configuration_qwen2_5_vl",
    "workers.vlm.scheduler",
    "workers.vlm.architectures.templated",
)

Emit = Callable[[ChatEvent | None], None]


class VlmEngine:
    """Runs one checkpoint: Moondream2, or any model that mlx-vlm knows by its chat template."""

    def __init__(self, alias: str, settings: VlmSettings, wired_limit: int = 0) -> None:
        """*wired_limit*: bytes; 0: nothing is wired."""
        self._wired_limit = wired_limit
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._model: Any = None
        self._processor: Any = None
        self._tokenizer: Any = None
        self._family: Family | None = None
        self._words: TokenizerWords | None = None
        self._vocabulary: Vocabulary | None = (
            None  # made when there is time, or by the first job with a grammar
        )
        self._context: int | None = None
        self._sampling: dict[str, float] = {}  # the checkpoint's defaults
        self.schedule: Schedule | None = None
        self.located = Located(Path())

    # --- loading -----------------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        report(Phase.IMPORTING, "")
        runtime.prepare(runtime.cache_limit(self._settings.memory_bytes))
        # Before the library, which takes seconds: most failed loads are a wrong path.
        self.located = locate(self._alias, self._settings, report)
        folder = self.located.folder
        import mlx_vlm  # noqa: TID251 - this is the VLM engine

        report(Phase.LOADING, "")
        config = self._read_config(folder)
        if lack := model_files.lacking_in_folder(folder, model_files.VLM_FILES):
            raise LoadError(f"{self._key}: {folder} {lack}")
        trusted = self._settings.trust_remote_code
        if not trusted:
            remote_code.forbid(folder)
        moondream = is_moondream(config)
        if moondream:
            self._point_to_tokenizer(folder, report)
        try:
            self._model, self._processor = mlx_vlm.load(str(folder), trust_remote_code=trusted)
        except Exception as exc:
            if not trusted and (code := remote_code.refused()):
                log.warning("mlx-vlm failed without the code of the checkpoint: %s", first_line(exc))
                raise LoadError(
                    f"{self._key}: {folder} can't be loaded without code of its own, which is not run"
                    f" ({code}); if you trust it: models.{self._alias}.trust_remote_code: true"
                ) from exc
            if not isinstance(exc, (ValueError, OSError)):
                log.warning("mlx-vlm failed to load the model", exc_info=True)
            raise self._unfit(exc) from exc
        self._check(moondream)
        runtime.widen(self._model)
        runtime.limit_memory(self._settings.memory_bytes, self._wired_limit)
        self._context = context_length(config)
        if moondream and self._context is None:  # the published config.json says nothing of sizes
            self._context = self._model.config.text_config.max_position_embeddings
        self._sampling = read_sampling_defaults(folder)
        self._make_schedule(moondream)
        report(Phase.WARMING_UP, "")
        try:
            self._warm_up()
        except Exception as exc:
            log.warning("the first generation failed", exc_info=True)
            raise self._unfit(exc) from exc

    def _read_config(self, folder: Path) -> dict[str, Any]:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise LoadError(f"{self._key}: {folder}: config.json can't be read: {exc}") from exc
        if not isinstance(config, dict):
            raise LoadError(f"{self._key}: {folder}: config.json is not an object")
        return config

    def _point_to_tokenizer(self, folder: Path, report: Report) -> None:
        """mlx-vlm fetches Moondream's tokenizer from the Hub, even for a model in a folder."""
        import mlx_vlm.models.moondream2.processing_moondream2 as processing  # noqa: TID251

        tokenizer = locate_tokenizer(self._alias, folder, report)
        if not self._settings.trust_remote_code:
            remote_code.forbid(tokenizer)
        processing.TOKENIZER_REPO = str(tokenizer)

    def _check(self, moondream: bool) -> None:
        """What mlx-vlm passes over in silence, and images would be dropped for."""
        name = type(self._processor).__name__
        if moondream and name != "Moondream2Processor":
            raise LoadError(f"{self._key}: the processor is {name}: no Moondream2 tokenizer was found")
        if not moondream and not hasattr(self._processor, "image_processor"):
            raise LoadError(f"{self._key}: the checkpoint has no image processor ({name} only)")
        if any(getattr(self._model, tower, self) is None for tower in _TOWERS):
            raise LoadError(f"{self._key}: the checkpoint has no weights for its vision tower")

    def _unfit(self, exc: Exception) -> LoadError:
        kind = "" if isinstance(exc, ValueError) else f"{type(exc).__name__}: "
        return LoadError(f"{self._key}: the checkpoint can't be used: {kind}{first_line(exc)}")

    def _make_schedule(self, moondream: bool) -> None:
        from workers.backend import cuda
        from workers.vlm.architectures.moondream import Moondream
        from workers.vlm.architectures.templated import Qwen, Templated
        from workers.vlm.batch import Batch
        from workers.vlm.scheduler import BatchOptions, Schedule

        options = BatchOptions.of(self._settings)
        if moondream:
            whole = None if options.image_prefix is None else options.image_prefix == "bidirectional"
            self._family = Moondream(self._model, self._processor, sees_whole=whole)
        elif type(self._processor).__name__ == "Qwen2_5_VLProcessor":
            self._family = Qwen(self._model, self._processor)
        else:
            self._family = Templated(self._model, self._processor)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._words = TokenizerWords(self._tokenizer)
        kv_bits = options.kv_bits
        if moondream and kv_bits is not None:
            log.warning("kv_bits: Moondream2's attention takes no quantized keys; they stay whole")
            kv_bits = None
        if cuda.in_use():
            cuda.take_rows_together(self._model.language_model)
        batch = Batch(self._model.language_model, len(self._tokenizer), kv_bits)
        self.schedule = Schedule(self._family, batch, self._words, options)

    def _warm_up(self) -> None:
        """Two tokens, and the plan for a grey picture: builds the kernels, proves that the parts fit.

        MLX is lazy: the picture's tensors are laid out, which finds shapes that don't fit, and are not
        computed. Computing them would double the time from a cold start to the first token.
        """
        assert self._family is not None
        picture = Image.new("RGB", (56, 56), "grey")
        seen, unseen = (
            ChatJob((Turn("user", parts),), Sampling(temperature=0), max_tokens=2)
            for parts in ((picture, "What is this?"), ("What is this?",))
        )
        reading = self._family.read(seen)
        features = [self._family.look(one)[-1] for one in reading.pictures]
        self._family.inputs(reading, 0, features)
        try:
            self.run(unseen, lambda event: None)
        except Exception:  # some models don't talk without a picture
            self.run(seen, lambda event: None)
        self._scheduled.prefixes.clear()
        self._scheduled.done.clear()

    # --- running -----------------------------------------------------------------------------------

    def read(self, job: ChatJob) -> Reading:
        """*job* as a prompt. On one thread, which need not be the model's.

        Raises ``ApiError`` for what the client did.
        """
        family, words = self._family, self._words
        if family is None or words is None:
            raise RuntimeError("the model is not loaded")
        require_known(job.logit_bias, len(self._tokenizer))
        reading: Reading = family.read(job)
        room = self._room(reading.prompt_tokens)
        matchers: tuple[Any, ...] = ()
        if job.grammar is not None:
            from workers.vlm.grammar import Matcher

            vocabulary = self._grammar_vocabulary(words)
            matchers = tuple(Matcher(vocabulary, job.grammar) for _ in range(job.n))
        sampling = with_defaults(job.sampling, job.open, self._sampling)
        job = replace(job, max_tokens=min(job.max_tokens, room), sampling=sampling)
        return replace(reading, job=job, matchers=matchers)

    def prepare(self) -> None:
        """Make the vocabulary of grammars, which takes 1-2 s for 150,000 tokens."""
        if self._words is not None:
            self._grammar_vocabulary(self._words)

    def _grammar_vocabulary(self, words: TokenizerWords) -> Vocabulary:
        from workers.vlm.grammar import Vocabulary

        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._tokenizer, len(self._tokenizer), words.end_ids)
        return self._vocabulary

    def _room(self, prompt_tokens: int) -> int:
        """How many tokens an answer may have; raises ``InvalidRequest`` when there is no room."""
        if self._context is None:
            return 1 << 30
        if prompt_tokens >= self._context:
            raise InvalidRequest(
                f"the prompt has {prompt_tokens} tokens; this model's context holds"
                f" {self._context}, the answer included",
                param="messages",
                code="context_length_exceeded",
            )
        return self._context - prompt_tokens

    @property
    def busy(self) -> bool:
        return self.schedule is not None and self.schedule.busy

    def admit(self, reading: Reading, sink: Sink) -> None:
        self._scheduled.admit(reading, sink)

    def step(self) -> None:
        self._scheduled.step()

    def rest(self) -> bool:
        return buffers.give_back(KEPT_BYTES)

    def work(self) -> Work:
        schedule = self.schedule
        return Work() if schedule is None else Work(**schedule.done)

    def caches(self) -> Caches:
        schedule = self.schedule
        if schedule is None:
            return Caches()
        return Caches(prompts=schedule.prefixes.nbytes, pictures=schedule.features.nbytes)

    @property
    def _scheduled(self) -> Schedule:
        if self.schedule is None:
            raise RuntimeError("the model is not loaded")
        return self.schedule

    def run(self, job: ChatJob, emit: Emit) -> None:
        """Do *job* alone: what the model thread does with many, for tests and for warming up."""
        sink = CallbackSink(emit)
        self.admit(self.read(job), sink)
        while not sink.ended:
            self.step()
        if sink.error is not None:
            raise sink.error

    def close(self) -> None:
        from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

        self._model = self._processor = self._tokenizer = None
        self._family = self._words = self.schedule = self._vocabulary = None
        clear_mlx_streams()
