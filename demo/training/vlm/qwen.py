"""The PyTorch twin of mlx-vlm's qwen2_5_vl (see ``layers`` for the idea).

Every vision block uses full attention (``fullatt_block_indexes`` lists them all), so the window
permutation of the original has no effect and is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.vlm.layers import (
    Holder,
    RMSNorm,
    branch_mask,
    inverse_frequencies,
    join_heads,
    rotary,
    split_attention,
    split_qkv,
)

PATCH = 14  # pixels; 2 x 2 patches make one image token


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias)
        self.up_proj = nn.Linear(width, hidden, bias)
        self.down_proj = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.heads = config["num_heads"]
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn = Holder(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.mlp = SwiGLU(width, config["intermediate_size"], bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        queries, keys, values = split_qkv(self.attn.qkv(self.norm1(x)), self.heads)
        queries = rotary(queries, cos, sin).to(values.dtype)
        keys = rotary(keys, cos, sin).to(values.dtype)
        seen = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.attn.proj(join_heads(seen))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        if config["fullatt_block_indexes"] != list(range(config["depth"])):
            raise ValueError("this twin has no windowed attention")
        width, merged = config["hidden_size"], 4 * config["hidden_size"]
        self.head_width = width // config["num_heads"]
        patch = (2, PATCH, PATCH)
        self.patch_embed = Holder(proj=nn.Conv3d(3, width, patch, stride=patch, bias=False))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config["depth"]))
        self.merger = Holder(
            ln_q=RMSNorm(width),
            mlp=nn.Sequential(
                nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config["out_hidden_size"])
            ),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, H / 28 * W / 28, width of the language model)."""
        batch, _, height, width = images.shape
        rows, columns = height // PATCH, width // PATCH
        patches = (
            images.view(batch, 3, rows // 2, 2, PATCH, columns // 2, 2, PATCH)
            .permute(0, 2, 5, 3, 6, 1, 4, 7)
            .reshape(batch, rows * columns, 3 * PATCH * PATCH)
        )
        # To the model, a still image is two equal frames: add the kernels of both.
        kernel = self.patch_embed.proj.weight.sum(2).flatten(1)
        x = F.linear(patches, kernel).float()
        cos, sin = self._rotary_table(rows, columns, images.device)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.merger.mlp(self.merger.ln_q(x).reshape(batch, rows * columns // 4, -1))

    def _rotary_table(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Half of the channels rotate with the row, half with the column of a patch."""
        inverse = inverse_frequencies(self.head_width // 2, 10000.0, device)

        def as_patches(grid: Tensor) -> Tensor:  # the four patches of a token are adjacent
            return grid.reshape(rows // 2, 2, columns // 2, 2).transpose(1, 2).reshape(-1)

        row = as_patches(torch.arange(rows, device=device)[:, None].expand(rows, columns))
        column = as_patches(torch.arange(columns, device=device)[None].expand(rows, columns))
        angles = torch.cat([row[:, None] * inverse, column[:, None] * inverse], -1)
        angles = torch.cat([angles, angles], -1)
        return angles.cos()[None, None], angles.sin()[None, None]


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        kv_width = self.kv_heads * (width // self.heads)
        self.self_attn = Holder(
            q_proj=nn.Linear(width, width),
            k_proj=nn.Linear(width, kv_width),
            v_proj=nn.Linear(width, kv_width),
            o_proj=nn.Linear(width, width, bias=False),
        )
        self.mlp = SwiGLU(width, config["intermediate_size"], bias=False)
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, prefix: int, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        attention, normed = self.self_attn, self.input_layernorm(x)

        def split(projection: nn.Module, heads: int) -> Tensor:
            return projection(normed).view(batch, length, heads, -1).transpose(1, 2)

        queries = split(attention.q_proj, self.heads)
        keys = split(attention.k_proj, self.kv_heads)
        values = split(attention.v_proj, self.kv_heads)
        queries = rotary(queries, cos, sin).to(values.dtype)
        keys = rotary(keys, cos, sin).to(values.dtype)
        groups = self.heads // self.kv_heads
        if groups > 1:
            keys = keys.repeat_interleave(groups, 1)
            values = values.repeat_interleave(groups, 1)
        seen = split_attention(queries, keys, values, prefix, mask)
        x = x + attention.o_proj(join_heads(seen))
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        width = config["hidden_size"]
        self.visual = Vision(config["vision_config"])
        self.model = Holder(
            embed_tokens=nn.Embedding(config["vocab_size"], width),
            layers=nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"])),
            norm=RMSNorm(width, config["rms_norm_eps"]),
        )
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def blocks(self) -> list[nn.Module]:
        return [*self.visual.blocks, *self.model.layers]

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

        images: (B, 3, H, W) in 0..255; prefix: (P,) ids with the image token repeated; ids, branch
        and position: (B, T). Text only: images None, prefix empty.
        """
        batch, device = len(ids), ids.device
        x, start = self.model.embed_tokens(ids), 0
        positions = None
        if images is not None:
            lead = self.model.embed_tokens(prefix)[None].expand(batch, -1, -1)
            rows, columns = images.shape[2] // 28, images.shape[3] // 28
            at = int((prefix == self.config["image_token_id"]).nonzero()[0])
            features = self.visual((images / 255 - self.mean) / self.std)
            after = lead[:, at + rows * columns :]
            x = torch.cat([lead[:, :at], features.to(x.dtype), after, x], 1)
            positions, start = self._prefix_positions(len(prefix), at, rows, columns, device)
        branch_positions = (position + start)[None].expand(3, -1, -1)
        if positions is not None:
            shared = positions[:, None].expand(-1, batch, -1)
            branch_positions = torch.cat([shared, branch_positions], 2)
        cos, sin = self._rotary_table(branch_positions)
        mask = branch_mask(branch, len(prefix))
        for layer in self.model.layers:
            x = layer(x, cos, sin, len(prefix), mask)
        return self.model.norm(x[:, len(prefix) :])

    def head(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)

    @staticmethod
    def _prefix_positions(
        length: int, at: int, rows: int, columns: int, device: torch.device
    ) -> tuple[Tensor, int]:
        """(3, length) time, row and column positions of the prefix, and the next free position."""
        count = rows * columns
        image = torch.arange(count, device=device)
        grid = torch.stack([image * 0, image // columns, image % columns]) + at
        end, tail = at + max(rows, columns), length - at - count
        before = torch.arange(at, device=device).expand(3, -1)
        after = torch.arange(end, end + tail, device=device).expand(3, -1)
        return torch.cat([before, grid, after], 1), end + tail

    def _rotary_table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """MRoPE: each pair of channels rotates with one of time, row and column."""
        width = self.config["hidden_size"] // self.config["num_attention_heads"]
        inverse = inverse_frequencies(width, self.config["rope_theta"], positions.device)
        sections = self.config["rope_scaling"]["mrope_section"]
        owner = torch.repeat_interleave(torch.arange(len(sections)), torch.tensor(sections))
        turns = positions[owner.to(positions.device)].permute(1, 2, 0).float() * inverse
        angles = torch.cat([turns, turns], -1)[:, None]
        return angles.cos(), angles.sin()
