"""The prompts of the VLM benchmarks, and their checkpoint.

Rules: all peers get the same conversations and the same checkpoint. Every completion has exactly the
requested number of tokens, because the checkpoint's end token is replaced (text after the natural end
is noise, and costs the same).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx  # noqa: TID251 - rewrites a checkpoint

from demo.world import Scene, random_scene
from testkit.images import as_data_uri

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "demo" / "models" / "vlm-best"
_NEVER = "<|vision_pad|>"  # a token that the model never samples

Message = dict[str, Any]


def endless(folder: Path, *, wide: bool = False) -> Path:
    """A copy of the demo's Qwen2.5-VL in *folder* that never samples its end token.

    *wide*: in float32. Our worker converts to float32 on a CPU anyway; the peers do not.
    """
    shutil.copytree(CHECKPOINT, folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    (never,) = (token["id"] for token in tokens if token["content"] == _NEVER)
    for name, key, value in (
        ("config.json", "eos_token_id", never),
        ("generation_config.json", "eos_token_id", never),
        ("tokenizer_config.json", "eos_token", _NEVER),
    ):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    if not wide:
        return folder
    weights = folder / "model.safetensors"
    arrays = mx.load(str(weights))
    assert isinstance(arrays, dict)
    widened = {name: value.astype(mx.float32) for name, value in arrays.items()}
    mx.save_safetensors(str(weights), widened, {"format": "mlx"})
    return folder


class Images:
    """Images that no peer has seen yet, as data URIs."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seen: set[Scene] = set()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (scene := random_scene(self._rng)) in self._seen:
            pass
        self._seen.add(scene)
        return as_data_uri(scene)


_NUMBERS = count(1)


def question(images: list[str], text: str = "Write a one-sentence caption.") -> list[Message]:
    """A conversation of one turn about *images*; no two have the same text."""
    parts: list[Message] = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
    asked = {"type": "text", "text": f"{text} ({next(_NUMBERS)})"}
    return [{"role": "user", "content": [*parts, asked] if parts else asked["text"]}]


def next_turn(messages: list[Message], answer: str) -> list[Message]:
    """*messages*, the answer, and one more question about the same images."""
    more = {"role": "user", "content": "What color is the background?"}
    return [*messages, {"role": "assistant", "content": answer}, more]


def body(messages: list[Message], max_tokens: int) -> Message:
    """A streamed, greedy chat request."""
    return {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
