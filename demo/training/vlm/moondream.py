"""The PyTorch twin of mlx-vlm's moondream2 (see ``layers`` for the idea).

The 730 tokens before the question (a start token and 27 x 27 of the image) are causal here, because
mlx-vlm 0.7.10 treats them so; in the original Moondream2 they attend to each other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.vlm.layers import (
    Holder,
    branch_mask,
    inverse_frequencies,
    join_heads,
    rotary,
    split_attention,
    split_qkv,
)

GRID = 27  # patches along the side of a crop
PATCH = 14  # pixels
MARGIN = 4  # patches of overlap on each inner side of a crop
PREFIX = 1 + GRID * GRID


class GeluMLP(nn.Module):
    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, out or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.ln1, self.ln2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attn = Holder(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.mlp = GeluMLP(width, config["intermediate_size"])

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = split_qkv(self.attn.qkv(self.ln1(x)), self.heads)
        seen = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.attn.proj(join_heads(seen))
        return x + self.mlp(self.ln2(x))


class Layer(nn.Module):
    """Parallel attention and MLP on one LayerNorm; the first half of each head is rotary."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        if config["num_key_value_heads"] != self.heads:
            raise ValueError("this twin has no grouped heads")
        self.ln = nn.LayerNorm(width, 1e-5)
        self.attn = Holder(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.mlp = GeluMLP(width, config["intermediate_size"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, prefix: int, mask: Tensor) -> Tensor:
        normed = self.ln(x)
        queries, keys, values = split_qkv(self.attn.qkv(normed), self.heads)
        turned = cos.shape[-1]

        def half_rotary(t: Tensor) -> Tensor:
            return torch.cat([rotary(t[..., :turned], cos, sin), t[..., turned:]], -1).to(values.dtype)

        seen = split_attention(half_rotary(queries), half_rotary(keys), values, prefix, mask)
        return x + self.attn.proj(join_heads(seen)) + self.mlp(normed)


def pooling_matrix(rows: int, columns: int) -> Tensor:
    """mlx-vlm's _reconstruct_local_features as one matrix, (729, rows * columns * 729).

    The crops' patches are joined without their overlaps, then averaged down to 27 x 27.
    """
    bands = []
    for row in range(rows):
        band = []
        for column in range(columns):
            patches = torch.arange(GRID * GRID).view(GRID, GRID)
            patches = patches + (row * columns + column) * GRID * GRID
            top, left = MARGIN if row else 0, MARGIN if column else 0
            bottom = GRID - (MARGIN if row < rows - 1 else 0)
            right = GRID - (MARGIN if column < columns - 1 else 0)
            band.append(patches[top:bottom, left:right])
        bands.append(torch.cat(band, 1))
    whole = torch.cat(bands, 0)
    height, width = whole.shape
    matrix = torch.zeros(GRID * GRID, rows * columns * GRID * GRID)
    for i in range(GRID):
        top, bottom = round(i * height / GRID), round((i + 1) * height / GRID)
        for j in range(GRID):
            left, right = round(j * width / GRID), round((j + 1) * width / GRID)
            pooled = whole[top : max(bottom, top + 1), left : max(right, left + 1)].reshape(-1)
            matrix[i * GRID + j, pooled] = 1 / len(pooled)
    return matrix


class Moondream(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        text, vision = config["text_config"], config["vision_config"]
        width, vision_width = text["hidden_size"], vision["hidden_size"]
        self.model = Holder(
            text=Holder(
                wte=nn.Parameter(torch.zeros(text["vocab_size"], width)),
                blocks=nn.ModuleList(Layer(text) for _ in range(text["num_hidden_layers"])),
                post_ln=nn.LayerNorm(width, 1e-5),
                lm_head=nn.Linear(width, text["vocab_size"]),
            ),
            vision=Holder(
                patch_emb=nn.Linear(3 * PATCH * PATCH, vision_width),
                pos_emb=nn.Parameter(torch.zeros(1, GRID * GRID, vision_width)),
                blocks=nn.ModuleList(VisionBlock(vision) for _ in range(vision["num_hidden_layers"])),
                post_ln=nn.LayerNorm(vision_width, 1e-5),
                proj_mlp=GeluMLP(2 * vision_width, vision["proj_inner_dim"], width),
            ),
        )
        self._pools: dict[tuple[int, int], Tensor] = {}

    def blocks(self) -> list[nn.Module]:
        return [*self.model.vision.blocks, *self.model.text.blocks]

    def forward(
        self,
        images: Tensor | None,
        prefix: Tensor,
        ids: Tensor,
        branch: Tensor,
        position: Tensor,
        layout: tuple[int, int] | None = None,
    ) -> Tensor:
        """Hidden states of the branches, (B, T, width).

        images: (B, crops, 3, 378, 378) in 0..255, or None for text only; prefix is not used (this
        architecture has no prefix ids); ids, branch and position: (B, T); layout: rows and columns
        of crops.
        """
        batch, device, text = len(ids), ids.device, self.model.text
        x, start = text.wte[ids], 0
        if images is not None:
            first = text.wte[0].expand(batch, 1, -1)
            x, start = torch.cat([first, self._encode(images, layout).to(x.dtype), x], 1), PREFIX
            lead = torch.arange(PREFIX, device=device).expand(batch, -1)
            position = torch.cat([lead, position + PREFIX], 1)
        config = self.config["text_config"]
        turned = config["hidden_size"] // config["num_attention_heads"] // 2
        turns = position[..., None].float() * inverse_frequencies(turned, 10000.0, device)
        angles = torch.cat([turns, turns], -1)[:, None]
        cos, sin, mask = angles.cos(), angles.sin(), branch_mask(branch, start)
        for block in text.blocks:
            x = block(x, cos, sin, start, mask)
        return text.post_ln(x[:, start:])

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.text.lm_head(hidden)

    def _encode(self, images: Tensor, layout: tuple[int, int] | None) -> Tensor:
        """A single crop serves as the whole image and as its only part."""
        batch, count = images.shape[:2]
        vision = self.model.vision
        x = (images / 255 - 0.5) / 0.5
        x = (
            x.view(batch * count, 3, GRID, PATCH, GRID, PATCH)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(batch * count, GRID * GRID, 3 * PATCH * PATCH)
        )
        x = (vision.patch_emb(x) + vision.pos_emb).float()
        for block in vision.blocks:
            x = block(x)
        x = vision.post_ln(x).view(batch, count, GRID * GRID, -1)
        whole = parts = x[:, 0]
        if count > 1:
            if layout is None:
                raise ValueError("several crops need a layout")
            if layout not in self._pools:
                self._pools[layout] = pooling_matrix(*layout).to(x.device)
            flat = x[:, 1:].reshape(batch, (count - 1) * GRID * GRID, -1)
            parts = torch.einsum("pq,bqd->bpd", self._pools[layout].to(x.dtype), flat)
        return vision.proj_mlp(torch.cat([whole, parts.to(whole.dtype)], -1))
