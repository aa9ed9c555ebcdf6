"""The vision-language engine: mlx-vlm, one request at a time.

Rules: the only importer of mlx_vlm, and only on the model thread, inside ``load``; all private names
that are used stand in tests/workers/test_library_contracts.py. mlx-vlm turns prompts into tensors and
tensors into tokens; conversations, sampling, text and stop strings are ours (``prompting``,
``sampling``, ``text``), so that a batching generator can take the place of ``stream_generate`` alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from contracts.control import Phase
from contracts.errors import InvalidRequest
from contracts.settings import VlmSettings
from workers import hub, runtime
from workers.checkpoint import context_length, control_tokens, has_moondream_vocabulary
from workers.engine import (
    Answered,
    ChatEvent,
    ChatJob,
    Delta,
    LoadError,
    Prompted,
    Report,
    Sampling,
    Turn,
)
from workers.prompting import moondream_question, template_messages
from workers.text import Detokenizer, StopFinder
from workers.thread import first_line

log = logging.getLogger(__name__)

_STARMIE = "moondream/starmie-v1"  # the tokenizer of every Moondream2
_ANSWER_ID = 3  # of that tokenizer: what follows is the answer
_MAX_ASPECT = 200  # Qwen's image processor refuses more
_TOWERS = ("vision_tower", "vision", "vision_model")
# What loading and answering import; a standby does it ahead.
LIBRARIES = (
    "mlx_vlm.models.moondream2",
    "mlx_vlm.models.qwen2_5_vl",
    "transformers.models.qwen2_5_vl.configuration_qwen2_5_vl",
    "workers.sampling",
)

Emit = Callable[[ChatEvent | None], None]
Inputs = dict[str, Any]  # tensors of one prompt; input_ids among them


class VlmEngine:
    """Runs one checkpoint: Moondream2, or any model that mlx-vlm knows by its chat template."""

    def __init__(self, alias: str, settings: VlmSettings) -> None:
        self._key = f"models.{alias}.path"
        self._alias = alias
        self._settings = settings
        self._model: Any = None
        self._processor: Any = None
        self._tokenizer: Any = None
        self._control: list[str] = []
        self._context: int | None = None

    # --- loading -----------------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        report(Phase.IMPORTING, "")
        runtime.prepare()
        # Before the library, which takes seconds: most failed loads are a wrong path.
        folder = locate(self._alias, self._settings, report)
        import mlx_vlm  # noqa: TID251 - this is the one importer

        report(Phase.LOADING, "")
        config = self._read_config(folder)
        moondream = is_moondream(config)
        if moondream:
            self._point_to_tokenizer(folder, report)
        try:
            self._model, self._processor = mlx_vlm.load(str(folder))
        except Exception as exc:
            if not isinstance(exc, (ValueError, OSError)):
                log.warning("mlx-vlm failed to load the model", exc_info=True)
            raise self._unfit(exc) from exc
        self._check(moondream)
        runtime.widen(self._model)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        # mlx-vlm's detokenizers raise at ids they don't know, and ours has the text anyway.
        self._processor.detokenizer = _NoDetokenizer()
        self._control = control_tokens(self._tokenizer)
        self._context = context_length(config)
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

        processing.TOKENIZER_REPO = str(locate_tokenizer(self._alias, folder, report))

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

    def _warm_up(self) -> None:
        """One token, and the plan for a grey picture: builds the kernels, proves that the parts fit.

        MLX is lazy: the picture's tensors are laid out, which finds shapes that don't fit, and are not
        computed. Computing them would double the time from a cold start to the first token.
        """
        picture = Image.new("RGB", (56, 56), "grey")
        seen, unseen = (
            ChatJob((Turn("user", parts),), Sampling(temperature=0), max_tokens=1)
            for parts in ((picture, "What is this?"), ("What is this?",))
        )
        inputs = self._inputs(seen)
        ids, pixels = inputs.pop("input_ids"), inputs.pop("pixel_values")
        self._model.get_input_embeddings(ids, pixels, **inputs)
        try:
            self.run(unseen, lambda event: None)
        except Exception:  # some models don't talk without a picture
            self.run(seen, lambda event: None)

    # --- running -----------------------------------------------------------------------------------

    def run(self, job: ChatJob, emit: Emit) -> None:
        import mlx.core as mx  # noqa: TID251 - this is the VLM engine

        try:
            inputs = self._inputs(job)
            ids = inputs["input_ids"].flatten().tolist()
            room = self._room(len(ids))
            emit(Prompted(len(ids)))
            job = replace(job, max_tokens=min(job.max_tokens, room))
            for index in range(job.n):
                self._answer(index, job, dict(inputs), ids, emit)
        finally:
            mx.clear_cache()

    def _inputs(self, job: ChatJob) -> Inputs:
        moondream = type(self._processor).__name__ == "Moondream2Processor"
        return self._moondream(job) if moondream else self._templated(job)

    def _templated(self, job: ChatJob) -> Inputs:
        from mlx_vlm import prepare_inputs  # noqa: TID251
        from mlx_vlm.utils import should_add_special_tokens  # noqa: TID251

        for image in job.images:
            if max(image.size) >= _MAX_ASPECT * min(image.size):
                raise InvalidRequest(
                    f"an image of {image.width}x{image.height} pixels is too narrow", param="messages"
                )
        try:
            prompt = self._processor.apply_chat_template(
                template_messages(job.turns, self._control),
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as exc:
            # Templates refuse conversations that they don't foresee by raising.
            if type(exc).__name__ != "TemplateError":
                raise
            raise InvalidRequest(f"messages: {first_line(exc)}", param="messages") from exc
        raw = prepare_inputs(
            self._processor,
            images=job.images or None,
            prompts=prompt,
            add_special_tokens=should_add_special_tokens(
                self._model.config.model_type, self._processor
            ),
        )
        return _as_inputs(raw)

    def _moondream(self, job: ChatJob) -> Inputs:
        import mlx.core as mx  # noqa: TID251
        from mlx_vlm import prepare_inputs  # noqa: TID251

        question = moondream_question(job, self._control)
        if job.images:
            return _as_inputs(prepare_inputs(self._processor, images=job.images, prompts=question))
        # Without an image the processor leaves the framing out.
        framed = f"\n\nQuestion: {question}\n\nAnswer: "
        tokens = self._tokenizer.encode(framed, add_special_tokens=False)
        ids = mx.array([[self._tokenizer.bos_token_id or 0, *tokens, _ANSWER_ID]])
        return {"input_ids": ids, "pixel_values": None, "mask": mx.ones_like(ids)}

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

    def _answer(self, index: int, job: ChatJob, inputs: Inputs, ids: list[int], emit: Emit) -> None:
        text = Detokenizer(lambda tokens: str(self._tokenizer.decode(tokens, skip_special_tokens=True)))
        stops = StopFinder(job.stops)

        def show(piece: str) -> None:
            shown = stops.push(piece)
            emit(Delta(index, shown) if shown else None)

        sampling = replace(job.sampling, seed=job.sampling.seed + index)
        ended = False  # by the model itself
        count = 0
        with closing(self._tokens(inputs, ids, sampling, job.max_tokens)) as tokens:
            for token in tokens:
                count += 1
                if self._tokenizer.stopping_criteria(token):
                    ended = True
                    break
                show(text.push(token))
                if stops.stopped:
                    break
        show(text.finish())
        if rest := stops.finish():
            emit(Delta(index, rest))
        emit(Answered(index, "stop" if ended or stops.stopped else "length", count))

    def _tokens(
        self, inputs: Inputs, ids: list[int], sampling: Sampling, max_tokens: int
    ) -> Generator[int, None, None]:
        """The tokens of one answer, the one that ends it among them."""
        from mlx_vlm import stream_generate  # noqa: TID251

        from workers.sampling import Chooser

        chooser = Chooser(sampling, ids, len(self._tokenizer))
        generation = stream_generate(
            self._model,
            self._processor,
            "",  # inputs holds the tensors of the prompt
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            sampler=chooser,
            logits_processors=[chooser.adjust],
            **inputs,
        )
        with closing(generation) as results:
            for result in results:
                # At the limit one more result repeats the last token.
                if result.finish_reason == "length":
                    return
                yield int(result.token)

    def close(self) -> None:
        from mlx_vlm._stream_cleanup import clear_mlx_streams  # noqa: TID251

        self._model = self._processor = self._tokenizer = None
        clear_mlx_streams()


class _NoDetokenizer:
    """Stands where ``stream_generate`` looks for a detokenizer."""

    last_segment = ""

    def reset(self) -> None: ...

    def add_token(self, token: int, skip_special_token_ids: object = ()) -> None: ...

    def finalize(self) -> None: ...


def _as_inputs(raw: dict[str, Any]) -> Inputs:
    """What ``prepare_inputs`` returns, as ``stream_generate`` takes it."""
    inputs = dict(raw)
    inputs["mask"] = inputs.pop("attention_mask", None)
    return inputs


def locate(alias: str, settings: VlmSettings, report: Report) -> Path:
    """The folder of the checkpoint, after downloading it; raises ``LoadError``."""
    return hub.locate(settings.path, alias, patterns=hub.VLM_FILES, report=report)


def locate_tokenizer(alias: str, folder: Path, report: Report) -> Path:
    """The folder of the tokenizer for the Moondream2 in *folder*; raises ``LoadError``."""
    if has_moondream_vocabulary(folder):
        return folder
    try:
        return hub.locate(_STARMIE, alias, patterns=hub.VLM_FILES, report=report)
    except LoadError as exc:
        raise LoadError(f"{exc} (the tokenizer of Moondream2)") from exc


def is_moondream(config: dict[str, Any]) -> bool:
    """Is it Moondream2, by its config.json?"""
    return str(config.get("model_type", "")).startswith("moondream")
