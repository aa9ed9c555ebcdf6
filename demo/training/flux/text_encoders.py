"""The PyTorch twins of mflux's T5 and CLIP text encoders, at any size.

Attribute names are mflux's parameter names, so a state dict is exported one to one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.flux.dimensions import Dimensions
from demo.training.flux.vocabulary import CLIP_MAX_TOKENS

T5_BUCKETS, T5_FARTHEST = 32, 128


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def plain_linear(width: int, out: int) -> nn.Linear:
    return nn.Linear(width, out, bias=False)


# ---------------------------------------------------------------- T5


class T5Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6))


def t5_buckets(length: int) -> Tensor:
    """(length, length): the bucket of each distance; near distances have their own, far ones share."""
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    half = T5_BUCKETS // 2
    near = half // 2
    later = (distance > 0).long() * half
    distance = distance.abs()
    share = torch.log(distance.float().clamp(min=1) / near) / math.log(T5_FARTHEST / near)
    far = near + (share * (half - near)).floor().long()
    return later + torch.where(distance < near, distance, far.clamp(max=half - 1))


class T5SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.q, self.k = plain_linear(width, inner), plain_linear(width, inner)
        self.v, self.o = plain_linear(width, inner), plain_linear(inner, width)
        self.relative_attention_bias = nn.Embedding(T5_BUCKETS, heads)

    def forward(self, x: Tensor, buckets: Tensor) -> Tensor:
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        queries, keys = split_heads(self.q(x), self.heads), split_heads(self.k(x), self.heads)
        scores = queries @ keys.transpose(-1, -2) + bias
        weights = scores.float().softmax(-1).to(x.dtype)
        return self.o(join_heads(weights @ split_heads(self.v(x), self.heads)))


class T5Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.SelfAttention = T5SelfAttention(width, heads, head_width)
        self.layer_norm = T5Norm(width)

    def forward(self, x: Tensor, buckets: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), buckets)


class T5Dense(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = plain_linear(width, hidden), plain_linear(width, hidden)
        self.wo = plain_linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer_norm = T5Norm(width)
        self.DenseReluDense = T5Dense(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class T5Block(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.attention = T5Attention(sizes.t5_dim, sizes.t5_heads, sizes.t5_kv)
        self.ff = T5FeedForward(sizes.t5_dim, sizes.t5_ff)

    def forward(self, x: Tensor, buckets: Tensor) -> Tensor:
        return self.ff(self.attention(x, buckets))


class T5(nn.Module):
    """Token ids -> a vector for each token."""

    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.shared = nn.Embedding(sizes.t5_vocab, sizes.t5_dim)
        self.t5_blocks = nn.ModuleList(T5Block(sizes) for _ in range(sizes.t5_layers))
        self.final_layer_norm = T5Norm(sizes.t5_dim)
        self.register_buffer("buckets", t5_buckets(sizes.max_t5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, buckets = self.shared(ids), self.buckets[: ids.shape[1], : ids.shape[1]]
        for block in self.t5_blocks:
            x = block(x, buckets)
        return self.final_layer_norm(x)


# ---------------------------------------------------------------- CLIP


class ClipAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            split_heads(projection(x), self.heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.out_proj(join_heads(seen))


class ClipMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))  # CLIP's quick GELU


class ClipLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = ClipAttention(width, heads), ClipMLP(width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipEncoder(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ClipLayer(sizes.clip_dim, sizes.clip_heads) for _ in range(sizes.clip_layers)
        )


class ClipEmbeddings(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(CLIP_MAX_TOKENS, sizes.clip_dim)
        self.token_embedding = nn.Embedding(sizes.clip_vocab, sizes.clip_dim)


class ClipText(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.encoder = ClipEncoder(sizes)
        self.embeddings = ClipEmbeddings(sizes)
        self.final_layer_norm = nn.LayerNorm(sizes.clip_dim)


class Clip(nn.Module):
    """Token ids -> one vector: that of the end of the text, which has the highest id."""

    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.text_model = ClipText(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        model = self.text_model
        places = model.embeddings.position_embedding.weight[: ids.shape[1]]
        x = model.embeddings.token_embedding(ids) + places
        for layer in model.encoder.layers:
            x = layer(x)
        x, end = model.final_layer_norm(x), ids.argmax(-1)
        return x.gather(1, end[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
