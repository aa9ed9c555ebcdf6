"""The PyTorch twin of mflux's FLUX.1 VAE, at any size.

Attribute names are mflux's parameter names, so a state dict is exported one to one (convolutions are
transposed, see ``export``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.flux.dimensions import (
    LATENT_CHANNELS,
    LATENT_SCALE,
    LATENT_SHIFT,
    Dimensions,
)


def group_norm(channels: int, groups: int, eps: float = 1e-6) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=eps)


class Wrapped(nn.Module):
    """mflux wraps some convolutions as .conv2d or .conv, and some norms as .norm."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self._name = name
        setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self._name)(x)


class Residual(nn.Module):
    """``shortcut``: mflux's widening blocks always have one, even if the width is equal here."""

    def __init__(self, channels: int, out: int, groups: int, shortcut: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels, groups), group_norm(out, groups)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = group_norm(channels, groups, 1e-5)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        y = F.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y))[:, 0]
        return x + self.to_out[0](y).transpose(1, 2).reshape(x.shape)


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, groups)])
        self.resnets = nn.ModuleList([Residual(channels, channels, groups) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Down(nn.Module):
    def __init__(self, channels: int, out: int, groups: int, shrink: bool, shortcut: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [Residual(channels, out, groups, shortcut), Residual(out, out, groups)]
        )
        self.downsamplers = None
        if shrink:
            self.downsamplers = nn.ModuleList([Wrapped("conv", nn.Conv2d(out, out, 3, stride=2))])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        if self.downsamplers is None:
            return x
        return self.downsamplers[0](F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels: int, out: int, groups: int, grow: bool, shortcut: bool) -> None:
        super().__init__()
        first = Residual(channels, out, groups, shortcut)
        self.resnets = nn.ModuleList([first, *(Residual(out, out, groups) for _ in range(2))])
        self.upsamplers = None
        if grow:
            convolution = nn.Conv2d(out, out, 3, padding=1)
            self.upsamplers = nn.ModuleList([Wrapped("conv", convolution)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        if self.upsamplers is None:
            return x
        return self.upsamplers[0](F.interpolate(x, scale_factor=2, mode="nearest"))


class Encoder(nn.Module):
    def __init__(self, widths: Sequence[int], groups: int) -> None:
        super().__init__()
        a, b, c = widths
        self.conv_in = Wrapped("conv2d", nn.Conv2d(3, a, 3, padding=1))
        self.down_blocks = nn.ModuleList(
            [
                Down(a, a, groups, shrink=True, shortcut=False),
                Down(a, b, groups, shrink=True, shortcut=True),
                Down(b, c, groups, shrink=True, shortcut=True),
                Down(c, c, groups, shrink=False, shortcut=False),
            ]
        )
        self.mid_block = Middle(c, groups)
        self.conv_norm_out = Wrapped("norm", group_norm(c, groups))
        # Twice the channels, as in a variational encoder: the second half is not used.
        self.conv_out = Wrapped("conv2d", nn.Conv2d(c, 2 * LATENT_CHANNELS, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, widths: Sequence[int], groups: int) -> None:
        super().__init__()
        a, b, c = widths
        self.conv_in = Wrapped("conv2d", nn.Conv2d(LATENT_CHANNELS, c, 3, padding=1))
        self.mid_block = Middle(c, groups)
        self.up_blocks = nn.ModuleList(
            [
                Up(c, c, groups, grow=True, shortcut=False),
                Up(c, c, groups, grow=True, shortcut=False),
                Up(c, b, groups, grow=True, shortcut=True),
                Up(b, a, groups, grow=False, shortcut=True),
            ]
        )
        self.conv_norm_out = Wrapped("norm", group_norm(a, groups))
        self.conv_out = Wrapped("conv2d", nn.Conv2d(a, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    def __init__(self, sizes: Dimensions) -> None:
        super().__init__()
        self.encoder = Encoder(sizes.vae_ch, sizes.vae_groups)
        self.decoder = Decoder(sizes.vae_ch, sizes.vae_groups)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 16, H / 8, W / 8)."""
        return (self.encoder(images)[:, :LATENT_CHANNELS] - LATENT_SHIFT) * LATENT_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents / LATENT_SCALE + LATENT_SHIFT)


def pack(latents: Tensor) -> Tensor:
    """(B, 16, 2 h, 2 w) -> (B, h w, 64): each token holds a square of four latents."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    squares = tokens.reshape(-1, rows, columns, LATENT_CHANNELS, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(-1, LATENT_CHANNELS, rows * 2, columns * 2)
