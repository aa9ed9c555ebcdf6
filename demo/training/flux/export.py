"""Writes trained weights as a checkpoint in mflux's own saved layout, plus tiny.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.training.flux.dimensions import Dimensions

METADATA = {"quantization_level": "None", "mflux_version": "0.24.0"}
SHARD = "0.safetensors"
FOLDERS = {"transformer.": "transformer", "t5.": "text_encoder_2", "clip.": "text_encoder"}
TOKENIZERS = ("tokenizer", "tokenizer_2")


def export(
    vae: Mapping[str, Tensor],
    net: Mapping[str, Tensor],
    tokenizers: Path,
    sizes: Dimensions,
    out: Path,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Replace the checkpoint in ``out``; returns the number of its parameters."""
    for name in (*FOLDERS.values(), "vae", *TOKENIZERS):
        shutil.rmtree(out / name, ignore_errors=True)
    count = _write(vae, out / "vae", dtype)
    for prefix, name in FOLDERS.items():
        part = {k.removeprefix(prefix): v for k, v in net.items() if k.startswith(prefix)}
        count += _write(part, out / name, dtype)
    for name in TOKENIZERS:
        shutil.copytree(tokenizers / name, out / name)
    (out / "tiny.json").write_text(json.dumps(asdict(sizes), indent=1), encoding="utf-8")
    return count


def _write(weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> int:
    folder.mkdir(parents=True)
    converted = {key: _to_mlx(value).to(dtype).contiguous() for key, value in weights.items()}
    save_file(converted, folder / SHARD, metadata=METADATA)
    index = {"metadata": METADATA, "weight_map": dict.fromkeys(converted, SHARD)}
    text = json.dumps(index, indent=1)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return sum(value.numel() for value in converted.values())


def _to_mlx(weight: Tensor) -> Tensor:
    """MLX stores the input channels of a convolution last."""
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of an exported checkpoint for the twins, VAE and net, in fp32."""
    vae = _read(folder / "vae")
    net = {
        prefix + key: value
        for prefix, name in FOLDERS.items()
        for key, value in _read(folder / name).items()
    }
    return vae, net


def _read(folder: Path) -> dict[str, Tensor]:
    return {key: _from_mlx(v).float() for key, v in load_file(folder / SHARD).items()}


def _from_mlx(weight: Tensor) -> Tensor:
    return weight.permute(0, 3, 1, 2) if weight.ndim == 4 else weight
