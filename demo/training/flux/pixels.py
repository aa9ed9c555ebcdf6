"""Conversion of images between bytes (B, H, W, 3) and tensors (B, 3, H, W) in -1..1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Bytes = npt.NDArray[np.uint8]


def to_tensor(images: Bytes, device: str) -> Tensor:
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Bytes:
    values = (images.float().permute(0, 2, 3, 1).cpu().numpy() + 1) * 127.5
    return values.round().clip(0, 255).astype(np.uint8)


def psnr(images: Tensor, truth: Tensor) -> float:
    """Mean over the images, in dB."""
    error = ((images.clamp(-1, 1) - truth) ** 2).mean((1, 2, 3)).clamp(min=1e-9)
    return float((10 * torch.log10(4 / error)).mean())


def save_sheet(images: Tensor, columns: int, path: Path) -> None:
    """All images as tiles in one file, for viewing."""
    tiles = to_bytes(images)
    side = tiles.shape[1]
    sheet = Image.new("RGB", (columns * side, -(-len(tiles) // columns) * side))
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (i % columns * side, i // columns * side))
    sheet.save(path)
