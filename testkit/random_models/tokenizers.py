"""Small tokenizers over a few words: CLIP and T5 for FLUX.1, Qwen for FLUX.2 klein and Z-Image."""

from __future__ import annotations

import string
from typing import Any

WORDS = [
    word
    for line in (
        "a an the on of red green blue yellow white black purple orange grey circle square triangle",
        "background with small big left right top bottom",
        "picture",
        "photo make it sunset cat dog in snow",
    )
    for word in line.split()
]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def flux1_tokenizers() -> tuple[Any, Any]:
    """A byte-level CLIP BPE and a T5 unigram over WORDS."""
    from transformers import CLIPTokenizer, T5Tokenizer

    chars = _byte_alphabet()
    tokens, merges = chars + [c + "</w>" for c in chars], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    # The end must have the highest id: mflux pools CLIP at argmax(token id).
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    clip.model_max_length = 77
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -4.0)]
    pieces += [("▁" + word, -5.0) for word in WORDS]
    pieces += [(c, -8.0) for c in string.printable[:95] if c != " "]
    return clip, T5Tokenizer(vocab=pieces, extra_ids=0)


def qwen_tokenizer() -> Any:
    """Bytes as tokens, and a chat template in Qwen's form."""
    from transformers import Qwen2Tokenizer

    vocabulary = {char: number for number, char in enumerate(_byte_alphabet())}
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocabulary[special] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = _CHAT
    return tokenizer


def _byte_alphabet() -> list[str]:
    """GPT-2's byte alphabet: a printable character for each byte."""
    codes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    codes += [*range(ord("®"), ord("ÿ") + 1)]
    spare = 256 - len(codes)
    return [chr(code) for code in codes] + [chr(256 + number) for number in range(spare)]
