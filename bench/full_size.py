"""Checkpoints of full size with random weights: Qwen2.5-VL-7B at 4 bit, Moondream2 at 16 bit.

The dimensions are those of the public configurations; nothing is downloaded. Random weights generate
noise, at the time and memory cost of a real completion. The tokenizer is the demo's, padded to the
vocabulary size of the real one. ``small`` keeps the layout and shrinks the dimensions, so that the
code can be tried on a CPU.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx  # noqa: TID251 - makes checkpoints
from mlx.utils import tree_flatten  # noqa: TID251

MODELS = Path(__file__).resolve().parents[1] / "demo" / "models"
GROUP, BITS = 64, 4
_SHARD = 1 << 31  # bytes, approximately
Arrays = Iterable[tuple[str, mx.array]]

# Qwen/Qwen2.5-VL-7B-Instruct, config.json
_QWEN_VOCABULARY = 152064
_QWEN = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": _QWEN_VOCABULARY,
    "max_position_embeddings": 128000,
    "tie_word_embeddings": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_QWEN_SPECIAL = 151643  # the id of <|endoftext|>; the other special tokens follow it
_QWEN_PIXELS = 16384 * 784  # max_pixels of its preprocessor_config.json


def qwen(folder: Path, *, small: bool = False) -> Path:
    """Write a Qwen2.5-VL-7B with a 4-bit language model into *folder*; 6.1 GB unless *small*."""
    from mlx_vlm.models.qwen2_5_vl import Model, ModelConfig, TextConfig, VisionConfig  # noqa: TID251

    shutil.copytree(MODELS / "vlm-best", folder)
    config = json.loads((folder / "config.json").read_text())
    if not small:
        config |= _QWEN
        config["vision_config"] |= _QWEN_VISION
        ids = _widen_tokenizer(folder, special_from=_QWEN_SPECIAL)
        names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
        names |= {f"vision_{which}token_id": f"vision_{at}" for which, at in _VISION_TOKENS}
        config |= {key: ids[f"<|{token}|>"] for key, token in names.items()}
        config["eos_token_id"] = [ids["<|im_end|>"], ids["<|endoftext|>"]]
        _update(folder / "generation_config.json", eos_token_id=config["eos_token_id"])
        _update(folder / "preprocessor_config.json", min_pixels=3136, max_pixels=_QWEN_PIXELS)
    config["quantization"] = {"group_size": GROUP, "bits": BITS}
    (folder / "config.json").write_text(json.dumps(config))
    made = ModelConfig.from_dict(dict(config))
    made.text_config = TextConfig.from_dict(dict(config))
    made.vision_config = VisionConfig.from_dict(dict(config["vision_config"]))
    _save(folder, _random(Model(made), lambda name: name.startswith("language_model")))
    return folder


_VISION_TOKENS = (("start_", "start"), ("end_", "end"), ("", "pad"))


def moondream(folder: Path, *, small: bool = False) -> Path:
    """Write a Moondream2 (bf16) into *folder*; 3.9 GB unless *small*."""
    from mlx_vlm.models.moondream2 import Model, ModelConfig  # noqa: TID251

    shutil.copytree(MODELS / "vlm-fast", folder)
    config = json.loads((folder / "config.json").read_text())
    if not small:  # as published, without sizes: the defaults of mlx-vlm are those of the real model
        config = {"architectures": ["HfMoondream"], "config": {}, "model_type": "moondream1"}
        _widen_tokenizer(folder, to=50_000)
        (folder / "config.json").write_text(json.dumps(config))
    sizes = {name: config.get(name, {}) for name in ("text_config", "vision_config")}
    made = ModelConfig(**sizes)
    _save(folder, _random(Model(made), lambda name: False))
    return folder


def _update(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _widen_tokenizer(folder: Path, *, special_from: int = 0, to: int = 0) -> dict[str, int]:
    """Pad the tokenizer in *folder* with ordinary tokens: up to *to*, or up to *special_from*, where
    the special tokens then begin. Returns the ids of the special tokens."""
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    vocabulary: dict[str, int] = data["model"]["vocab"]
    for number in range(len(vocabulary), special_from or to):
        vocabulary[f"w{number}"] = number
    if special_from:
        first = min(token["id"] for token in data["added_tokens"])
        for token in data["added_tokens"]:
            token["id"] += special_from - first
        # Random weights also sample ids that no real tokenizer has; the library would fail on them.
        last = data["added_tokens"][-1]
        for number in range(last["id"] + 1, _QWEN_VOCABULARY):
            filler = {**last, "id": number, "content": f"<|w{number}|>", "special": False}
            data["added_tokens"].append(filler)
    file.write_text(json.dumps(data))
    return {token["content"]: token["id"] for token in data["added_tokens"]}


def _random(model: Any, quantized: Callable[[str], bool]) -> Arrays:
    """Random weights for the parameters of *model*; 4 bit where *quantized* and the width allow."""
    mx.random.seed(0)
    for name, value in tree_flatten(model.parameters()):
        # The lazy initial values are never evaluated.
        shape, module = value.shape, name.removesuffix(".weight")
        if name.endswith(".weight") and len(shape) == 2 and quantized(name) and not shape[1] % GROUP:
            scale = 1 / math.sqrt(shape[1]) / 4
            packed = (shape[0], shape[1] * BITS // 32)
            groups = (shape[0], shape[1] // GROUP)
            words = mx.random.randint(0, 1 << 16, (*packed, 2)).astype(mx.uint32)
            yield name, words[..., 0] | (words[..., 1] << 16)
            yield f"{module}.scales", mx.full(groups, scale, dtype=mx.bfloat16)
            yield f"{module}.biases", mx.full(groups, -7.5 * scale, dtype=mx.bfloat16)
        elif len(shape) >= 2:
            scale = 1 / math.sqrt(math.prod(shape[1:]))
            yield name, (mx.random.normal(shape) * scale).astype(mx.bfloat16)
        elif name.endswith(".weight"):  # of a norm
            yield name, mx.ones(shape, dtype=mx.bfloat16)
        else:
            yield name, mx.zeros(shape, dtype=mx.bfloat16)


def _save(folder: Path, arrays: Arrays) -> None:
    """Write *arrays* in shards, evaluating one array after the other."""
    (folder / "model.safetensors").unlink()
    shard: dict[str, mx.array] = {}
    number, size = 0, 0

    def write() -> None:
        nonlocal shard, number, size
        mx.save_safetensors(str(folder / f"model-{number:05}.safetensors"), shard, {"format": "mlx"})
        shard, number, size = {}, number + 1, 0

    for name, array in arrays:
        mx.eval(array)
        shard[name], size = array, size + array.nbytes
        if size > _SHARD:
            write()
    if shard:
        write()
