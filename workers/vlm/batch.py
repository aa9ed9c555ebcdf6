"""The batch of sequences that decode together, and the one prompt that is prefilled next to it.

It uses the two halves of mlx-vlm's ``BatchGenerator``: ``PromptProcessingBatch`` prefills a prompt in
chunks, and ``GenerationBatch`` decodes, one token ahead of what it returns. ``BatchGenerator`` itself
is not used: it sorts prompts by length, prefills several as one (which Moondream2 cannot), and loses
all sequences when one prompt fails.

Rules: only one prompt is prefilled, alone, so its result does not depend on the load. The caller
decides when a sequence ends. After an exception in ``decode`` the state of all sequences is unknown;
after one in ``prefill``, only that of the prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.backend.buffers import without_clear_cache
from workers.vlm.architectures.moondream import PREFIX, prefix_mask
from workers.vlm.kv_cache import Layers
from workers.vlm.sampler import RowSampler, SamplerState

_NO_LIMIT = 1 << 60  # tokens; the caller ends sequences
_LAST = 64  # tokens; a shorter rest is prefilled in one go with the last token (all of it gets logits)
_EVAL_STEPS = 32  # evaluate the caches this often: outputs that nobody reads would pile up lazily


class Language:
    """A language model that keeps its last logits and applies the mask that ``PREFIX`` requests."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.logits: Any = None  # (B, V), at the last position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, ids: Any, *, cache: Any = None, **inputs: Any) -> Any:
        prefix = inputs.pop(PREFIX, None)
        if prefix is not None and ids.shape[1] >= prefix and cache[0].size() == 0:
            inputs["mask"] = prefix_mask(ids.shape[1], prefix)
        single = ids.shape[0] == 1 and type(cache[0]).__name__ == "BatchKVCache"
        if single:
            cache[0].make_mask = _mask_of_single_row
        try:
            output = self._model(ids, cache=cache, **inputs)
        finally:
            if single:
                del cache[0].make_mask
        self.logits = output.logits[:, -1, :]
        return output


def _mask_of_single_row(tokens: int, **_: Any) -> str | None:
    """A single row has no padding, so it needs no mask array and is faster without one."""
    return None if tokens == 1 else "causal"


class Batch:
    """*vocabulary*: only lower ids are sampled. *kv_bits*: None, 4 or 8."""

    def __init__(self, model: Any, vocabulary: int, kv_bits: int | None = None) -> None:
        self._model = Language(model)
        self._sampler = _Sampler(vocabulary, self._model)
        self._kv_bits = kv_bits
        self._decoding: Any = None  # GenerationBatch; None: no sequence decodes
        self._prompt: Any = None  # PromptProcessingBatch
        self._prefilled: Any = None  # GenerationBatch of the sequence whose prompt is prefilled
        self._steps = 0

    @property
    def ids(self) -> list[int]:
        """The sequences that decode, in the order of their rows."""
        return [] if self._decoding is None else list(self._decoding.uids)

    @property
    def prefilling(self) -> bool:
        """Whether a prompt is begun and not in the batch yet."""
        return self._prompt is not None or self._prefilled is not None

    @property
    def remaining(self) -> int:
        """Prompt tokens that are not prefilled yet."""
        return 0 if self._prompt is None else int(self._prompt._input_ids.shape[1])

    def begin(self, id: int, ids: list[int], inputs: dict[str, Any], prefix: Layers | None) -> None:
        """Begin to prefill the prompt of sequence *id*: *ids*, after the keys and values of *prefix*.

        *inputs*: ``inputs_embeds`` of *ids*, and further keywords for the model.
        """
        from mlx_vlm.generate import ar  # noqa: TID251

        if ar.mx is mx:
            # mlx-vlm frees all cached buffers after each chunk, also while sequences decode.
            ar.mx = without_clear_cache(mx)
        inputs = dict(inputs)
        self._prompt = ar.PromptProcessingBatch(
            model=self._model,
            uids=[id],
            input_ids=[ids],
            max_tokens=[_NO_LIMIT],
            inputs_embeds=inputs.pop("inputs_embeds"),
            prompt_kwargs=inputs,
            kv_bits=self._kv_bits,
            kv_group_size=self._group_size(),
        )
        if prefix is not None:
            for cache, arrays in zip(self._prompt.prompt_cache, prefix, strict=True):
                _fill(cache, arrays)

    def _group_size(self) -> int:
        """Values that share a scale in a quantized cache: a divisor of the head's width."""
        return 64 if self._kv_bits is None or self._model.head_dim % 64 == 0 else 32

    def prefill(self, tokens: int, sampler: SamplerState) -> bool:
        """Prefill up to *tokens* more. Returns True at the end of the prompt; ``join`` comes next."""
        prompt = self._prompt
        if prompt.needs_processing() and self.remaining > min(tokens, _LAST):
            prompt.prefill_step_size = max(1, tokens)
            prompt.prompt_step()
            self._model.logits = None  # unused, and it would keep the whole chunk's logits alive
            mx.eval([cache.state for cache in prompt.prompt_cache])
            if prompt.needs_processing():
                return False
        self._sampler.rows = [sampler]
        self._prefilled = prompt.generate(self._sampler, _never_stop, compute_logprobs=False)
        self._prompt = None
        return True

    def join(self) -> None:
        """Add the prefilled sequence to the batch."""
        prefilled, self._prefilled = self._prefilled, None
        if self._decoding is None:
            self._decoding = prefilled
        else:
            self._decoding.extend(prefilled)

    def decode(self, samplers: Sequence[SamplerState]) -> list[int]:
        """The next token of each sequence. *samplers* and the result are in the order of ``ids``."""
        self._sampler.rows = samplers
        tokens = [int(response.token) for response in self._decoding.next()]
        self._steps += 1
        if self._steps % _EVAL_STEPS == 0:
            mx.eval([cache.state for cache in self._decoding.prompt_cache])
        return tokens

    def abandon_prompt(self) -> None:
        self._prompt = self._prefilled = None

    def remove(self, ids: Collection[int]) -> None:
        """Remove the sequences *ids* from the decoding ones."""
        if self._decoding is None:
            return
        uids = self._decoding.uids
        keep = [row for row, uid in enumerate(uids) if uid not in ids]
        if len(keep) == len(uids):
            return
        if keep:
            self._decoding.filter(keep)
        else:
            self._decoding = None

    def layers_of(self, id: int, tokens: int) -> Layers | None:
        """Keys and values of the first *tokens* of sequence *id*. None if its caches are not plain."""
        if self._decoding is None:
            return None
        row = self._decoding.uids.index(id)
        caches = self._decoding.prompt_cache
        if not all(_is_plain(cache) for cache in caches):
            return None
        start = int(caches[0].left_padding[row].item())
        return tuple(
            tuple(
                array[row : row + 1, :, start : start + tokens]
                for values in (cache.keys, cache.values)
                for array in (values if isinstance(values, tuple) else (values,))
            )
            for cache in caches
        )


class _Sampler(RowSampler):
    """Takes the logits from the model: mlx-vlm passes log-probabilities only."""

    def __init__(self, vocabulary: int, model: Language) -> None:
        super().__init__(vocabulary)
        self._model = model

    def __call__(self, logprobs: mx.array) -> mx.array:
        self.logits, self._model.logits = self._model.logits, None
        try:
            return super().__call__(logprobs)
        finally:
            self.logits = None


def _never_stop(token: int) -> bool:
    return False


def _is_plain(cache: Any) -> bool:
    """Whether *cache* holds one key and value for each token, in order."""
    from mlx_vlm.models.cache import BatchKVCache, BatchQuantizedKVCache  # noqa: TID251

    return type(cache) in (BatchKVCache, BatchQuantizedKVCache) and cache.keys is not None


def _fill(cache: Any, arrays: tuple[mx.array, ...]) -> None:
    """Put the keys and values in *arrays* into the empty *cache* of one row."""
    half = len(arrays) // 2
    keys, values = arrays[:half], arrays[half:]
    cache.keys, cache.values = (keys[0], values[0]) if half == 1 else (keys, values)
    tokens = arrays[0].shape[2]
    cache.offset = cache.offset + tokens
    cache._idx = tokens
