"""Pictures between bytes (B, H, W, 3) and tensors (B, 3, H, W) in -1..1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Bytes = npt.NDArray[np.uint8]


def to_tensor(pictures: Bytes, device: str) -> Tensor:
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> Bytes:
    values = (pictures.float().permute(0, 2, 3, 1).cpu().numpy() + 1) * 127.5
    return values.round().clip(0, 255).astype(np.uint8)


def psnr(pictures: Tensor, truth: Tensor) -> float:
    """Mean over the pictures, in dB."""
    error = ((pictures.clamp(-1, 1) - truth) ** 2).mean((1, 2, 3)).clamp(min=1e-9)
    return float((10 * torch.log10(4 / error)).mean())


def save_sheet(pictures: Tensor, columns: int, path: Path) -> None:
    """All pictures side by side in one file, to look at."""
    tiles = to_bytes(pictures)
    side = tiles.shape[1]
    sheet = Image.new("RGB", (columns * side, -(-len(tiles) // columns) * side))
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (i % columns * side, i // columns * side))
    sheet.save(path)
