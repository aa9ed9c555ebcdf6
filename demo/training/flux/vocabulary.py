"""Makes both tokenizers of the image generation checkpoint, in the formats that mflux expects.

Both have some eighty words, and single characters for the rest. Both lower-case their input, so that
"A Red Circle" and "a red circle" are the same prompt. CLIP's tokenizer always does. For T5 it has to
be a *precompiled* character map, as in SentencePiece: transformers rebuilds a T5 tokenizer from its
vocabulary and drops every other kind of normalizer in the file.

Needs transformers 5.
"""

from __future__ import annotations

import os
import string
import struct
from itertools import pairwise
from pathlib import Path

# The order decides the ids: the shipped weights have a row for each.
WORDS = [
    word
    for line in (
        "a an the on of red green blue yellow purple orange white black circle square triangle star",
        "background to left right above below next and with in at top bottom center centre middle side",
        "large small big little tiny huge",
        *("picture", "image", "drawing"),
        "photo draw paint make show",
        "word text letter letters number is are it its plain solid shape shapes two one color colour",
        "under over beside dot ball box change turn into",
    )
    for word in line.split()
]

CLIP_MAX_TOKENS = 77


def write_tokenizers(folder: Path) -> None:
    """Write folder/tokenizer (CLIP) and folder/tokenizer_2 (T5)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import CLIPTokenizer, T5Tokenizer

    vocabulary, merges = clip_vocabulary()
    clip = CLIPTokenizer(vocab=vocabulary, merges=merges)
    clip.model_max_length = CLIP_MAX_TOKENS
    clip.save_pretrained(str(folder / "tokenizer"))
    t5 = T5Tokenizer(
        vocab=t5_vocabulary(), extra_ids=0, _spm_precompiled_charsmap=lower_case_charsmap()
    )
    t5.save_pretrained(str(folder / "tokenizer_2"))


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE whose merges spell WORDS and nothing else."""
    characters = _byte_characters()
    tokens = characters + [character + "</w>" for character in characters]
    known = set(tokens)
    ranks: dict[tuple[str, str], int] = {}

    def merge(parts: list[str]) -> list[str]:
        """Apply the merges that exist so far, the oldest first."""
        while True:
            pairs = enumerate(pairwise(parts))
            found = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
            if not found:
                return parts
            _, i = min(found)
            parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]

    for word in WORDS:
        parts = merge([*word[:-1], word[-1] + "</w>"])
        while len(parts) > 1:
            ranks[(parts[0], parts[1])] = len(ranks)
            token = parts[0] + parts[1]
            if token not in known:
                tokens.append(token)
                known.add(token)
            parts = merge(parts)
    # mflux pools CLIP's output at the highest id, so the end of the text must have it.
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, list(ranks)


def _byte_characters() -> list[str]:
    """The printable stand-ins for the 256 bytes, in the order of GPT-2's and CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]


def t5_vocabulary() -> list[tuple[str, float]]:
    """Unigram pieces and their scores.

    The capitalized words are never used, because the tokenizer lower-cases. They keep their places,
    because the shipped weights have a row for each.
    """
    words = list(dict.fromkeys(WORDS + [word.capitalize() for word in WORDS]))
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -4.0)]
    characters = [c for c in string.printable[:95] if c != " "]
    return special + [(f"▁{word}", -5.0) for word in words] + [(c, -8.0) for c in characters]


def lower_case_charsmap() -> bytes:
    """A SentencePiece character map that turns A-Z into a-z.

    Its format: the size of a trie in bytes, the trie, and the replacements, each ended by a zero. The
    trie is a double array of 32-bit units. From the root at 0, the byte c leads to unit 0 ^ c, which
    must carry c as its label; bit 8 marks a replacement, and the bits from 10 on lead to unit c ^ 256,
    which holds the offset of the replacement, marked by bit 31.
    """
    leaves = 256
    trie, replacements = [0] * (2 * leaves), b""
    for code in string.ascii_uppercase.encode():
        trie[code] = leaves << 10 | 1 << 8 | code
        trie[code ^ leaves] = 1 << 31 | len(replacements)
        replacements += chr(code).lower().encode() + b"\0"
    units = struct.pack(f"<{len(trie)}I", *trie)
    return struct.pack("<I", len(units)) + units + replacements
