"""The parts that the PyTorch twins of Qwen2.5-VL and Moondream2 share.

The twins exist for training only. Their ``state_dict()`` keys are the Hugging Face checkpoint keys,
so that saving one *is* the export, and the modules are named after the keys.

A batch is one common prefix per image (system prompt and image tokens) followed by several
independent branches: a branch attends to the prefix and itself. As the prefix is causal, this equals
a single prompt at inference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_attention(queries: Tensor, keys: Tensor, values: Tensor, prefix: int, mask: Tensor) -> Tensor:
    """Attention over (B, H, prefix + T, d): the prefix is causal, the branches follow the mask."""
    if prefix == 0:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    before = F.scaled_dot_product_attention(
        queries[:, :, :prefix], keys[:, :, :prefix], values[:, :, :prefix], is_causal=True
    )
    after = F.scaled_dot_product_attention(queries[:, :, prefix:], keys, values, attn_mask=mask)
    return torch.cat([before, after], 2)


def branch_mask(branch: Tensor, prefix: int) -> Tensor:
    """(B, T) branch numbers -> (B, 1, T, prefix + T): the attention mask."""
    length = branch.shape[1]
    same = branch[:, :, None] == branch[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    return F.pad(same & earlier, (prefix, 0), value=True)[:, None]


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + rotate_half(x) * sin


def inverse_frequencies(width: int, theta: float, device: torch.device) -> Tensor:
    """The rotary angle per position for each pair of channels."""
    return 1 / theta ** (torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)


def split_qkv(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 D) -> three times (B, heads, N, D / heads)."""
    batch, count, _ = qkv.shape
    queries, keys, values = qkv.view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return queries, keys, values


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Holder(nn.Module):
    """A module with nothing but children; it exists for its place in the keys."""

    def __init__(self, **children: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
