"""Prompts as token ids, exactly as mflux's tokenizers give them (``parity`` compares)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from demo.training.flux.dimensions import Dimensions

Ids = npt.NDArray[np.int32]


class PromptCoder:
    """The T5 tokenizer of ``tokenizer_2`` and the CLIP tokenizer of ``tokenizer``."""

    def __init__(self, folder: Path, dimensions: Dimensions) -> None:
        self._t5 = Tokenizer.from_file(str(folder / "tokenizer_2" / "tokenizer.json"))
        self._t5.enable_truncation(dimensions.max_t5)
        self._t5.enable_padding(length=dimensions.max_t5, pad_id=0, pad_token="<pad>")
        self._clip = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        end = "<|endoftext|>"
        self._clip.enable_truncation(dimensions.max_clip)
        self._clip.enable_padding(
            length=dimensions.max_clip, pad_id=self._clip.token_to_id(end), pad_token=end
        )
        sizes = (self._t5.get_vocab_size(), self._clip.get_vocab_size())
        if sizes != (dimensions.t5_vocab, dimensions.clip_vocab):
            raise ValueError(f"the tokenizers have {sizes} tokens, which differs from the dimensions")

    def __call__(self, prompts: Sequence[str]) -> tuple[Ids, Ids]:
        """T5 ids and CLIP ids, one row per prompt. Equal prompts are encoded once."""
        unique = list(dict.fromkeys(prompts))
        number = {prompt: i for i, prompt in enumerate(unique)}
        rows = np.array([number[prompt] for prompt in prompts])

        def encode(tokenizer: Tokenizer) -> Ids:
            encoded = tokenizer.encode_batch(unique)
            ids: Ids = np.array([one.ids for one in encoded], np.int32)
            return ids[rows]

        return encode(self._t5), encode(self._clip)
