"""The PyTorch twin of mflux's FLUX.1 transformer, at any size, and the net that combines all parts.

Attribute names are mflux's parameter names, so a state dict is exported one to one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.flux.dimensions import LATENT_CHANNELS, Dimensions
from demo.training.flux.text_encoders import T5, Clip, T5SelfAttention, join_heads, split_heads

Rotary = tuple[Tensor, Tensor]  # cosines and sines, each (tokens, head_dim / 2)

PACKED = 4 * LATENT_CHANNELS
TIME_CHANNELS = 256


def rotary_table(sizes: Dimensions, rows: int, columns: int, device: str = "cpu") -> Rotary:
    """Angles of the prompt's tokens (all at 0) and of the image's (row and column)."""
    prompt = sizes.max_t5
    places = torch.zeros(prompt + rows * columns, 3)
    places[prompt:, 1] = torch.arange(rows).repeat_interleave(columns)
    places[prompt:, 2] = torch.arange(columns).repeat(rows)
    angles = [
        places[:, axis, None] / 10000.0 ** (torch.arange(0, width, 2).float() / width)
        for axis, width in enumerate(sizes.axes_dim)
    ]
    turned = torch.cat(angles, -1)
    return turned.cos().to(device), turned.sin().to(device)


def rotate(x: Tensor, table: Rotary) -> Tensor:
    cos, sin = table
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([cos * first - sin * second, sin * first + cos * second], -1).flatten(-2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, table: Rotary) -> Tensor:
    queries, keys = rotate(queries, table).to(values.dtype), rotate(keys, table).to(values.dtype)
    return join_heads(F.scaled_dot_product_attention(queries, keys, values))


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Modulation(nn.Module):
    """Shifts, scales and gates from the time and the pooled prompt."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, count * width)
        self._count = count

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(condition)[:, None].chunk(self._count, -1)


class TwoLinears(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeTextEmbedding(nn.Module):
    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.text_embedder = TwoLinears(clip_width, width)
        self.timestep_embedder = TwoLinears(TIME_CHANNELS, width)

    def forward(self, time: Tensor, pooled: Tensor) -> Tensor:
        half = TIME_CHANNELS // 2
        steps = torch.arange(half, device=time.device).float()
        angles = time[:, None].float() * torch.exp(-math.log(10000.0) * steps / half)
        waves = torch.cat([angles.cos(), angles.sin()], -1)
        return self.timestep_embedder(waves) + self.text_embedder(pooled)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, approximate: str) -> None:
        super().__init__()
        self._approximate = approximate
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x), approximate=self._approximate))


class JointAttention(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        width, inner = sizes.dim, sizes.heads * sizes.head_dim
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            setattr(self, name, nn.Linear(width, inner))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.to_add_out = nn.Linear(inner, width)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, RMSNorm(sizes.head_dim))
        self.heads = sizes.heads

    def forward(self, x: Tensor, prompt: Tensor, table: Rotary) -> tuple[Tensor, Tensor]:
        def split(y: Tensor) -> Tensor:
            return split_heads(y, self.heads)

        added_queries = self.norm_added_q(split(self.add_q_proj(prompt)))
        added_keys = self.norm_added_k(split(self.add_k_proj(prompt)))
        queries = torch.cat([added_queries, self.norm_q(split(self.to_q(x)))], 2)
        keys = torch.cat([added_keys, self.norm_k(split(self.to_k(x)))], 2)
        values = torch.cat([split(self.add_v_proj(prompt)), split(self.to_v(x))], 2)
        seen, count = attend(queries, keys, values, table), prompt.shape[1]
        return self.to_out[0](seen[:, count:]), self.to_add_out(seen[:, :count])


class DoubleBlock(nn.Module):
    """Image and prompt with separate weights and joint attention."""

    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        width = sizes.dim
        self.norm1, self.norm1_context = Modulation(width, 6), Modulation(width, 6)
        self.attn = JointAttention(sizes)
        self.ff = FeedForward(width, sizes.mlp, "none")
        self.ff_context = FeedForward(width, sizes.mlp, "tanh")

    def forward(
        self, x: Tensor, prompt: Tensor, condition: Tensor, table: Rotary
    ) -> tuple[Tensor, Tensor]:
        shift, scale, gate, shift2, scale2, gate2 = self.norm1(condition)
        p_shift, p_scale, p_gate, p_shift2, p_scale2, p_gate2 = self.norm1_context(condition)
        x_seen, prompt_seen = self.attn(
            layer_norm(x) * (1 + scale) + shift, layer_norm(prompt) * (1 + p_scale) + p_shift, table
        )
        x, prompt = x + gate * x_seen, prompt + p_gate * prompt_seen
        x = x + gate2 * self.ff(layer_norm(x) * (1 + scale2) + shift2)
        prompt_in = layer_norm(prompt) * (1 + p_scale2) + p_shift2
        return x, prompt + p_gate2 * self.ff_context(prompt_in)


class SingleAttention(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(sizes.dim, inner) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(sizes.head_dim), RMSNorm(sizes.head_dim)
        self.heads = sizes.heads

    def forward(self, x: Tensor, table: Rotary) -> Tensor:
        values = split_heads(self.to_v(x), self.heads)
        queries = self.norm_q(split_heads(self.to_q(x), self.heads))
        keys = self.norm_k(split_heads(self.to_k(x), self.heads))
        return attend(queries, keys, values, table)


class SingleBlock(nn.Module):
    """Prompt and image as one sequence; parallel attention and MLP."""

    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.norm = Modulation(sizes.dim, 3)
        self.attn = SingleAttention(sizes)
        self.proj_mlp = nn.Linear(sizes.dim, sizes.mlp)
        self.proj_out = nn.Linear(sizes.heads * sizes.head_dim + sizes.mlp, sizes.dim)

    def forward(self, x: Tensor, condition: Tensor, table: Rotary) -> Tensor:
        shift, scale, gate = self.norm(condition)
        h = layer_norm(x) * (1 + scale) + shift
        seen = self.attn(h, table)
        hidden = F.gelu(self.proj_mlp(h), approximate="tanh").to(seen.dtype)
        return x + gate * self.proj_out(torch.cat([seen, hidden], -1))


class Transformer(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        width = sizes.dim
        self.x_embedder = nn.Linear(PACKED, width)
        self.context_embedder = nn.Linear(sizes.t5_dim, width)
        self.time_text_embed = TimeTextEmbedding(sizes.clip_dim, width)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(sizes) for _ in range(sizes.double))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(sizes) for _ in range(sizes.single))
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, PACKED)

    def forward(self, x: Tensor, time: Tensor, prompt: Tensor, pooled: Tensor, table: Rotary) -> Tensor:
        """The velocity of packed latents x (B, N, 64) at time 1000 * sigma (B,)."""
        count = prompt.shape[1]
        x = self.x_embedder(x).float()  # the residual stream stays fp32 under autocast
        prompt = self.context_embedder(prompt).float()
        condition = F.silu(self.time_text_embed(time, pooled))
        for block in self.transformer_blocks:
            x, prompt = block(x, prompt, condition, table)
        x = torch.cat([prompt, x], 1)
        for block in self.single_transformer_blocks:
            x = block(x, condition, table)
        scale, shift = self.norm_out(condition)
        return self.proj_out(layer_norm(x[:, count:]) * (1 + scale) + shift)


class Net(nn.Module):
    """The flow and both text encoders, trained together."""

    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.transformer, self.t5, self.clip = Transformer(sizes), T5(sizes), Clip(sizes)

    def forward(
        self, x: Tensor, time: Tensor, t5_ids: Tensor, clip_ids: Tensor, table: Rotary
    ) -> Tensor:
        return self.transformer(x, time, self.t5(t5_ids), self.clip(clip_ids), table)


def initialize(net: Net, sizes: Dimensions) -> None:
    for name, parameter in net.named_parameters():
        if parameter.ndim >= 2 and "conv" not in name:
            nn.init.xavier_uniform_(parameter)
        if name.endswith("bias") and "relative" not in name:
            nn.init.zeros_(parameter)
    for name, module in net.named_modules():
        if isinstance(module, nn.Embedding):
            spread = 0.02 if "clip" in name else 0.3 if "relative" in name else 1.0
            nn.init.normal_(module.weight, std=spread)
        if isinstance(module, Modulation):  # every block starts as the identity
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)
        if isinstance(module, T5SelfAttention):  # T5 does not scale its scores
            module.q.weight.data *= sizes.t5_kv**-0.5
    nn.init.zeros_(net.transformer.proj_out.weight)
