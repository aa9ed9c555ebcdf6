"""What the VLM engine does next: who decodes, whose prompt is read, what is kept.

Rules: answers begin first come, first served, up to ``max_concurrency`` of them at a time; every step
first draws a token for each that has begun, then reads of one prompt after the other, no longer than a
few tokens take, so that nobody's stream stands still; who has left is dropped before each step. A fault
of one job ends that job; what ``step`` raises has cost all of them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.batch_engine import Sink
from workers.engine import Prompted
from workers.vlm.batch import Batch
from workers.vlm.kv_cache import MIN_HIT, FeatureCache, PrefixCache
from workers.vlm.prefill_budget import Pace
from workers.vlm.prompt import Family, Picture, Reading, usable
from workers.vlm.sampler import chooser_for
from workers.vlm.sequence import AnswerRow, Words

log = logging.getLogger(__name__)
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What of a VLM's settings the engine itself reads.

    ``max_concurrency``: answers that are drawn at a time. ``kv_bits``: of keys and values, None: as the
    model computes. ``prefix_cache_mb``, ``vision_cache_mb``: MiB of prompts and of pictures that are
    kept; 0: none. ``prefill_tokens``: of a prompt that are read in one go, at most. ``image_prefix``:
    whether Moondream2 sees a picture as a whole; None: as its tokenizer tells.
    ``large_image_pixels``: pixels from which a picture shows what the model needs.
    """

    max_concurrency: int = 8
    kv_bits: Literal[4, 8] | None = None
    prefix_cache_mb: int = 512
    vision_cache_mb: int = 128
    prefill_tokens: int = 512
    image_prefix: Literal["causal", "bidirectional"] | None = None
    large_image_pixels: int = 1 << 60

    @classmethod
    def of(cls, settings: Any) -> BatchOptions:
        own = cls()
        return cls(**{name: getattr(settings, name, getattr(own, name)) for name in cls.__slots__})


@dataclass(eq=False)
class _Task:
    reading: Reading
    sink: Sink
    rows: list[AnswerRow] = field(default_factory=list)  # that are not whole
    begun: bool = False
    prompted: bool = False


class Schedule:
    def __init__(
        self,
        family: Family,
        batch: Batch,
        words: Words,
        options: BatchOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._family = family
        self._batch = batch
        self._words = words
        self._options = options
        self._clock = clock
        self._tasks: dict[AnswerRow, _Task] = {}
        self._waiting: deque[AnswerRow] = deque()
        self._pace = Pace(options.prefill_tokens)
        self._seen: dict[int, Any] = {}  # features of the pictures of the row that is next
        self._looking: tuple[int, deque[Any]] | None = None  # a picture, and what is to be computed
        self.done: Counter[str] = Counter()  # by the names of ``contracts.control.Work``
        self.features = FeatureCache(options.vision_cache_mb * MIB)
        self.prefixes = PrefixCache(options.prefix_cache_mb * MIB)

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def admit(self, reading: Reading, sink: Sink) -> None:
        """Take a job; nothing is computed yet."""
        job = reading.job
        task = _Task(reading, sink)
        for index in range(job.n):
            matcher = reading.matchers[index] if reading.matchers else None
            chooser = chooser_for(job, index, reading.ids, matcher)
            row = AnswerRow(job, index, chooser, self._words, job.max_tokens, sink.put)
            task.rows.append(row)
            self._tasks[row] = task
            self._waiting.append(row)

    def step(self) -> None:
        """One token for each answer that has begun, and some work for those that have not."""
        self._drop_cancelled()
        began = self._clock()
        decoded = len(self._batch) > 0
        if decoded:
            self._decode()
        if self._batch.reader is None and not self._waiting:
            if decoded:
                self._pace.decoded(self._clock() - began)
        else:
            self._prepare_some()
        if not self.busy:
            self._seen.clear()
            self._looking = None

    # --- answers -----------------------------------------------------------------------------------

    def _decode(self) -> None:
        whole: list[AnswerRow] = []
        for row, token in self._batch.decode():
            assert isinstance(row, AnswerRow)
            self.done["tokens"] += 1
            if row not in self._tasks:  # its job has failed a moment ago
                continue
            try:
                if row.take(token):
                    whole.append(row)
            except Exception as exc:
                self._end(self._tasks[row], exc)
        for row in whole:
            task = self._tasks.pop(row, None)
            if task is None:
                continue
            self._keep(row, task.reading, row.tokens)
            task.rows.remove(row)
            if not task.rows:
                large = self._options.large_image_pixels
                pictures = task.reading.job.images
                self.done["large_pictures"] += sum(p.width * p.height >= large for p in pictures)
                task.sink.end(None)
        self._batch.leave(whole)

    def _keep(self, row: AnswerRow, reading: Reading, drawn: list[int]) -> None:
        """Keep the keys and values of the prompt and what was *drawn* after it."""
        if reading.names is None or not self.prefixes.enabled:
            return
        names = reading.names + drawn
        try:
            layers = self._batch.known_of(row, len(names))
            if layers is not None:
                self.prefixes.store(names, layers)
        except Exception:
            log.exception("a prompt could not be kept")
            self.prefixes.clear()

    def _end(self, task: _Task, error: BaseException | None) -> None:
        """End a job whose answers are not all whole."""
        for row in task.rows:
            self._tasks.pop(row, None)
            if row in self._waiting:
                self._waiting.remove(row)
        self._batch.leave(task.rows)
        task.rows.clear()
        task.sink.end(error)

    def _drop_cancelled(self) -> None:
        for task in {id(task): task for task in self._tasks.values()}.values():
            if task.sink.cancelled:
                self._end(task, None)

    # --- prompts -----------------------------------------------------------------------------------

    def _prepare_some(self) -> None:
        """Prepare for as long as the others may wait: a burst of short prompts is read in one go."""
        began = before = self._clock()
        while True:
            self._prepare()
            now = self._clock()
            spent, last, before = now - began, now - before, now
            done = self._batch.reader is None and self._next() is None
            if done or spent + last > self._pace.stall_s:
                return

    def _prepare(self) -> None:
        """Look at a picture, or read a piece of a prompt."""
        row = self._batch.reader or self._next()
        if row is None:
            return
        assert isinstance(row, AnswerRow)
        task = self._tasks[row]
        if not task.begun:
            task.begun = True
            task.sink.begin()
        try:
            if self._batch.reader is None and not self._begin(row, task.reading):
                return
            if not self._read(row):
                return
        except Exception as exc:
            self._batch.abandon()
            self._looking = None
            self._end(task, exc)
            return
        self._batch.join()
        self._keep(row, task.reading, [])
        if not task.prompted:
            task.prompted = True
            task.sink.put(Prompted(task.reading.prompt_tokens))

    def _next(self) -> AnswerRow | None:
        """Whose turn it is to begin, if there is room."""
        if not self._waiting or len(self._batch) >= self._options.max_concurrency:
            return None
        return self._waiting[0]

    def _begin(self, row: AnswerRow, reading: Reading) -> bool:
        """Get all that *row*'s prompt needs, or a part of it; True when it can be read."""
        known = self._known(reading)
        ahead = [picture for picture in reading.pictures if picture.start >= known]
        until = self._clock() + self._pace.stall_s if len(self._batch) else None
        if not all(self._look(picture, until) for picture in ahead):
            return False  # the others draw a token meanwhile
        features = [self._seen[picture.key] for picture in ahead]
        inputs = self._family.inputs(reading, known, features)
        layers = self.prefixes.fetch(reading.names or [], known) if known else None
        self._waiting.popleft()
        self._seen.clear()
        row.cached_tokens = known
        self.done["prompt_tokens"] += len(reading.ids)
        self.done["cached_tokens"] += known
        self._batch.begin(row, reading.ids[known:], inputs, layers)
        return True

    def _known(self, reading: Reading) -> int:
        """How many tokens of the prompt need not be read."""
        if reading.names is None or not self.prefixes.enabled:
            return 0
        # The last one is read in any case: what comes after it is what is wanted.
        hit = usable(self.prefixes.match(reading.names[:-1]), reading.pictures)
        return hit if hit >= MIN_HIT else 0

    def _look(self, picture: Picture, until: float | None) -> bool:
        """See to it that the features of *picture* are there; a part of that, when time is up."""
        if picture.key in self._seen:
            return True
        features = self.features.get(picture.key)
        if features is not None:
            self.done["cached_pictures"] += 1
        else:
            if self._looking is None or self._looking[0] != picture.key:
                self._looking = picture.key, deque(self._family.look(picture))
            stages = self._looking[1]
            while True:
                if until is not None and self._clock() >= until:
                    return False
                features = stages.popleft()
                mx.eval(features)
                if not stages:
                    break
            self._looking = None
            self.features.put(picture.key, features)
        self._seen[picture.key] = features
        self.done["pictures"] += 1
        return True

    def _read(self, row: AnswerRow) -> bool:
        tokens = self._pace.tokens(others=len(self._batch) > 0)
        if not row.cached_tokens:
            # Of the first piece; later ones are of the usual size, as this is read by then.
            tokens = max(tokens, self._family.first_chunk - self._batch.done)
        began, unread = self._clock(), self._batch.unread
        whole = self._batch.read(tokens)
        self._pace.read(unread - self._batch.unread, self._clock() - began)
        return whole
