"""Executes step plans on MLX: decodes, encodes images, prefills prompts, and keeps the caches.

Rules: the plan decides order and amounts; the runner only executes. An exception that belongs to one
job ends that job. If ``run`` raises, all jobs are lost. Runs on the model thread.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from contracts.settings.models import VlmSettings
from workers.engine import Prefilled
from workers.vlm.batch import Batch
from workers.vlm.kv_cache import MIN_HIT, FeatureCache, PrefixCache
from workers.vlm.prompt import Architecture, Prompt, usable_prefix
from workers.vlm.scheduler import Scheduler
from workers.vlm.sequence import PrefillState, Sequence, Status
from workers.vlm.step_plan import Encode, Prefill, Start, StepPlan

log = logging.getLogger(__name__)
MIB = 1 << 20


class Runner:
    """*clock* returns monotonic seconds."""

    def __init__(
        self,
        architecture: Architecture,
        batch: Batch,
        scheduler: Scheduler,
        settings: VlmSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.architecture = architecture
        self._batch = batch
        self._scheduler = scheduler
        self._large_image = settings.large_image_pixels
        self._clock = clock
        self.counters: Counter[str] = Counter()  # the fields of ``contracts.control.Work``
        self.features = FeatureCache(settings.vision_cache_mb * MIB)
        self.prefixes = PrefixCache(settings.prefix_cache_mb * MIB)

    def run(self, plan: StepPlan) -> None:
        sequences = self._scheduler.sequences
        for id in plan.drop:
            if id in sequences:  # not dropped with a sibling
                self._end_job(sequences[id], None)
        began = self._clock()
        if plan.decode:
            self._decode([sequences[id] for id in plan.decode])
            self._scheduler.decoded(self._clock() - began)
        elif work := plan.work:
            self._work(sequences[work.id], work)
            self._scheduler.worked(self._clock() - began)

    # --- decode ------------------------------------------------------------------------------------

    def _decode(self, sequences: list[Sequence]) -> None:
        batch, unfinished = self._batch, self._scheduler.sequences
        if [sequence.id for sequence in sequences] != batch.ids:
            raise RuntimeError(f"{sequences} are to decode; the batch has {batch.ids}")
        tokens = batch.decode([sequence.sampler for sequence in sequences])
        self.counters["tokens"] += len(tokens)
        finished: list[Sequence] = []
        for sequence, token in zip(sequences, tokens, strict=True):
            if sequence.id not in unfinished:  # its job has just failed
                continue
            try:
                if sequence.append(token):
                    finished.append(sequence)
            except Exception as exc:
                self._end_job(sequence, exc)
        for sequence in finished:
            if sequence.id in unfinished:
                self._finish(sequence)
        batch.remove([sequence.id for sequence in finished])

    def _finish(self, sequence: Sequence) -> None:
        self._store_prefix(sequence)
        last = len(self._scheduler.siblings(sequence)) == 1
        self._scheduler.remove(sequence)
        if last:
            images = sequence.job.images
            self.counters["large_pictures"] += sum(
                image.width * image.height >= self._large_image for image in images
            )
            sequence.sink.end(None)

    def _end_job(self, sequence: Sequence, error: BaseException | None) -> None:
        """End the job of *sequence* early, with all its unfinished sequences."""
        siblings = self._scheduler.siblings(sequence)
        for sibling in siblings:
            self._scheduler.remove(sibling)
            if sibling.status is Status.PREFILLING:
                self._batch.abandon_prompt()
        self._batch.remove([sibling.id for sibling in siblings])
        sequence.sink.end(error)

    # --- prefill -----------------------------------------------------------------------------------

    def _work(self, sequence: Sequence, work: Start | Encode | Prefill) -> None:
        if isinstance(work, Start) and sequence.index == 0:
            sequence.sink.begin()
        prefilled = False
        try:
            match work:
                case Start():
                    self._start(sequence)
                case Encode():
                    self._encode(sequence, work.stages)
                case Prefill():
                    prefilled = self._prefill(sequence, work.tokens)
        except Exception as exc:
            self._batch.abandon_prompt()
            self._end_job(sequence, exc)
            return
        if not prefilled:
            return
        self._batch.join()
        sequence.status, sequence.prefill = Status.DECODING, None
        self._store_prefix(sequence)
        if sequence.index == 0:
            sequence.sink.put(Prefilled(len(sequence.prompt)))

    def _start(self, sequence: Sequence) -> None:
        """Look up the prompt and its images in the caches."""
        prompt = sequence.prompt
        cached = self._cached_tokens(prompt)
        images = {image.key: image for image in prompt.images if image.start >= cached}
        found = {key: features for key in images if (features := self.features.get(key)) is not None}
        state = PrefillState(
            images=deque(image for key, image in images.items() if key not in found),
            features=found,
            prefix=self.prefixes.fetch(prompt.cache_key or [], cached) if cached else None,
            min_chunk=0 if cached else self.architecture.first_chunk,
        )
        self.counters["pictures"] += len(found)
        self.counters["cached_pictures"] += len(found)
        sequence.cached_tokens = sequence.computed_tokens = cached
        sequence.status, sequence.prefill = Status.PREFILLING, state

    def _cached_tokens(self, prompt: Prompt) -> int:
        """How many prompt tokens the prefix cache holds. The last token is always computed: its logits
        give the first token of the completion."""
        if prompt.cache_key is None or not self.prefixes.enabled:
            return 0
        hit = usable_prefix(self.prefixes.match(prompt.cache_key[:-1]), prompt.images)
        return hit if hit >= MIN_HIT else 0

    def _encode(self, sequence: Sequence, stages: int) -> None:
        state = _prefill_state(sequence)
        image = state.images[0]
        if state.stages is None:
            state.stages = deque(self.architecture.encode_image(image))
        for _ in range(min(stages, len(state.stages))):
            features = state.stages.popleft()
            mx.eval(features)
        if not state.stages:
            self.features.put(image.key, features)
            state.features[image.key] = features
            state.images.popleft()
            state.stages = None
            self.counters["pictures"] += 1

    def _prefill(self, sequence: Sequence, tokens: int) -> bool:
        """Returns whether the whole prompt is prefilled."""
        batch, prompt = self._batch, sequence.prompt
        if not batch.prefilling:
            state = _prefill_state(sequence)
            start = sequence.computed_tokens
            images = [image for image in prompt.images if image.start >= start]
            features = [state.features[image.key] for image in images]
            inputs = self.architecture.inputs(prompt, start, features)
            self.counters["prompt_tokens"] += len(prompt)
            self.counters["cached_tokens"] += start
            batch.begin(sequence.id, prompt.ids[start:], inputs, state.prefix)
            state.features, state.prefix = {}, None
        began, remaining = self._clock(), batch.remaining
        complete = batch.prefill(tokens, sequence.sampler)
        done = remaining - batch.remaining
        self._scheduler.budget.prefilled(done, self._clock() - began)
        sequence.computed_tokens += done
        return complete

    def _store_prefix(self, sequence: Sequence) -> None:
        """Cache the keys and values of the prompt and of the tokens after it."""
        key = sequence.prompt.cache_key
        if key is None or not self.prefixes.enabled:
            return
        key = key + sequence.tokens
        try:
            layers = self._batch.layers_of(sequence.id, len(key))
            if layers is not None:
                self.prefixes.store(key, layers)
        except Exception:
            log.exception("a prompt could not be cached")
            self.prefixes.clear()


def _prefill_state(sequence: Sequence) -> PrefillState:
    assert sequence.prefill is not None
    return sequence.prefill
