"""Rows that decode together, and the one prompt that is read beside them.

Built on the two halves of mlx-vlm's ``BatchGenerator``: ``PromptProcessingBatch`` reads a prompt in
chunks, ``GenerationBatch`` decodes, one step ahead of what it tells. The generator around them is left
out: it sorts prompts by length, reads several as one (which Moondream2 can't), and loses everybody's
tokens when one prompt fails. Rules: one prompt is read at a time, alone, so that it is computed as it
would be in an empty machine; when rows end is decided by their owner; an exception of ``decode``
leaves the state of all rows unknown, one of ``read`` that of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.backend.buffers import without_clear_cache
from workers.vlm.architectures.moondream import PREFIX, prefix_mask
from workers.vlm.kv_cache import Layers
from workers.vlm.sampler import Chooser, RowSampler

_FOREVER = 1 << 60  # tokens; the rows' owner decides
_LAST = 64  # so short an end of a prompt is read in one go with its last token (all then get logits)
_SETTLE = 32  # steps, after which what nobody asked for is computed: it would pile up


class Row(Protocol):
    @property
    def chooser(self) -> Chooser: ...


class Language:
    """A language model that shows the logits it gave, and looks at a picture as a whole if told to."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.logits: Any = None  # (B, V), of the last place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, ids: Any, *, cache: Any = None, **inputs: Any) -> Any:
        prefix = inputs.pop(PREFIX, None)
        if prefix is not None and ids.shape[1] >= prefix and cache[0].size() == 0:
            inputs["mask"] = prefix_mask(ids.shape[1], prefix)
        alone = ids.shape[0] == 1 and type(cache[0]).__name__ == "BatchKVCache"
        if alone:
            cache[0].make_mask = _mask_of_one
        try:
            output = self._model(ids, cache=cache, **inputs)
        finally:
            if alone:
                del cache[0].make_mask
        self.logits = output.logits[:, -1, :]
        return output


def _mask_of_one(tokens: int, **_: Any) -> str | None:
    """A single row is never padded: it needs no array of what to look at, and is computed sooner."""
    return None if tokens == 1 else "causal"


class Batch:
    """*vocabulary*: the ids that may be chosen are below it. *kv_bits*: None, 4 or 8."""

    def __init__(self, model: Any, vocabulary: int, kv_bits: int | None = None) -> None:
        self._model = Language(model)
        self._sampler = _Sampler(vocabulary, self._model)
        self._kv_bits = kv_bits
        self._rows: dict[int, Row] = {}
        self._uids = 0
        self._decoding: Any = None  # GenerationBatch; None: no rows
        self._prompt: Any = None  # PromptProcessingBatch
        self._reader: Row | None = None
        self._joining: Any = None  # GenerationBatch of the row whose prompt was read
        self._steps = 0

    def __len__(self) -> int:
        """Rows that decode."""
        return len(self._rows)

    @property
    def reader(self) -> Row | None:
        """Whose prompt is being read."""
        return self._reader

    @property
    def done(self) -> int:
        """Tokens of the prompt that have been read."""
        return 0 if self._prompt is None else int(self._prompt._processed_prompt_columns)

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are to be read."""
        return 0 if self._prompt is None else int(self._prompt._input_ids.shape[1])

    def begin(self, row: Row, ids: list[int], inputs: dict[str, Any], known: Layers | None) -> None:
        """Begin to read *ids* (``inputs_embeds`` and more in *inputs*) after what is *known*."""
        from mlx_vlm.generate import ar  # noqa: TID251

        if ar.mx is mx:
            # mlx-vlm frees all cached buffers after each chunk of a prompt, beside running streams.
            ar.mx = without_clear_cache(mx)
        inputs = dict(inputs)
        self._uids += 1
        self._prompt = ar.PromptProcessingBatch(
            model=self._model,
            uids=[self._uids],
            input_ids=[ids],
            max_tokens=[_FOREVER],
            inputs_embeds=inputs.pop("inputs_embeds"),
            prompt_kwargs=inputs,
            kv_bits=self._kv_bits,
            kv_group_size=self._group_size(),
        )
        self._reader = row
        if known is not None:
            for cache, arrays in zip(self._prompt.prompt_cache, known, strict=True):
                _fill(cache, arrays)

    def _group_size(self) -> int:
        """Values that share a scale in a quantized cache: a divisor of the head's width."""
        return 64 if self._kv_bits is None or self._model.head_dim % 64 == 0 else 32

    def read(self, tokens: int) -> bool:
        """Read up to *tokens* more of the prompt. Is it at its end, so that the row can ``join``?"""
        prompt = self._prompt
        if prompt.needs_processing() and self.unread > min(tokens, _LAST):
            prompt.prefill_step_size = max(1, tokens)
            prompt.prompt_step()
            self._model.logits = None  # nobody asks for them, and they would keep all that they are of
            mx.eval([cache.state for cache in prompt.prompt_cache])
            if prompt.needs_processing():
                return False
        assert self._reader is not None
        self._sampler.rows = [self._reader.chooser]
        joining = prompt.generate(self._sampler, _never, compute_logprobs=False)
        self._joining, self._prompt = joining, None
        return True

    def join(self) -> None:
        """The row whose prompt was read decodes from now on."""
        joining, self._joining = self._joining, None
        row, self._reader = self._reader, None
        assert row is not None
        if self._decoding is None:
            self._decoding = joining
        else:
            self._decoding.extend(joining)
        self._rows[self._uids] = row

    def decode(self) -> list[tuple[Row, int]]:
        """The next token of each row."""
        if self._decoding is None:
            return []
        self._sampler.rows = [self._rows[uid].chooser for uid in self._decoding.uids]
        drawn = [(self._rows[answer.uid], int(answer.token)) for answer in self._decoding.next()]
        self._steps += 1
        if self._steps % _SETTLE == 0:
            mx.eval([cache.state for cache in self._decoding.prompt_cache])
        return drawn

    def abandon(self) -> None:
        """Read no more of the prompt."""
        self._prompt = self._reader = self._joining = None

    def leave(self, rows: Iterable[Row]) -> None:
        """Take *rows* out, those that decode and the one that is read."""
        gone = {id(row) for row in rows}
        if self._reader is not None and id(self._reader) in gone:
            self.abandon()
        if self._decoding is None:
            return
        uids = self._decoding.uids
        keep = [i for i, uid in enumerate(uids) if id(self._rows[uid]) not in gone]
        if len(keep) == len(uids):
            return
        self._rows = {uids[i]: self._rows[uids[i]] for i in keep}
        if keep:
            self._decoding.filter(keep)
        else:
            self._decoding = None

    def known_of(self, row: Row, tokens: int) -> Layers | None:
        """Keys and values of the first *tokens* of a row that decodes; None: they can't be cut out."""
        if self._decoding is None:
            return None
        place = next(i for i, uid in enumerate(self._decoding.uids) if self._rows[uid] is row)
        caches = self._decoding.prompt_cache
        if not all(_is_plain(cache) for cache in caches):
            return None
        start = int(caches[0].left_padding[place].item())
        return tuple(
            tuple(
                array[place : place + 1, :, start : start + tokens]
                for kind in (cache.keys, cache.values)
                for array in (kind if isinstance(kind, tuple) else (kind,))
            )
            for cache in caches
        )


class _Sampler(RowSampler):
    """Takes the logits from the model: mlx-vlm hands over log-probabilities only."""

    def __init__(self, vocabulary: int, model: Language) -> None:
        super().__init__(vocabulary)
        self._model = model

    def __call__(self, logprobs: mx.array) -> mx.array:
        self.logits, self._model.logits = self._model.logits, None
        try:
            return super().__call__(logprobs)
        finally:
            self.logits = None


def _never(token: int) -> bool:
    return False


def _is_plain(cache: Any) -> bool:
    """Does *cache* hold one key and value for each token, in order?"""
    from mlx_vlm.models.cache import BatchKVCache, BatchQuantizedKVCache  # noqa: TID251

    return type(cache) in (BatchKVCache, BatchQuantizedKVCache) and cache.keys is not None


def _fill(cache: Any, arrays: tuple[mx.array, ...]) -> None:
    """Put the keys and values of *arrays* into the empty *cache* of one row."""
    half = len(arrays) // 2
    keys, values = arrays[:half], arrays[half:]
    cache.keys, cache.values = (keys[0], values[0]) if half == 1 else (keys, values)
    tokens = arrays[0].shape[2]
    cache.offset = cache.offset + tokens
    cache._idx = tokens
