"""A renderer of the shapes world in torch: thousands of images at once, in any colours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from demo.training.flux.specs import PALETTE
from demo.world import SHAPES, SQUARE_HALF, STAR_INNER

FAR = 1e3  # the distance to an absent shape


def paint(ground: Tensor, colors: Tensor, shapes: Tensor, geometry: Tensor, size: int) -> Tensor:
    """Images, (B, 3, size, size) in -1..1.

    ground: (B, 3) and colors: (B, 2, 3) in 0..255; shapes: (B, 2), NO_SHAPE for none; geometry:
    (B, 2, 3) place and radius as fractions. Edges are smoothed over one pixel.
    """
    centres = (torch.arange(size, device=ground.device) + 0.5) / size
    image = ground[:, :, None, None].expand(-1, -1, size, size)
    for k in range(2):
        cx, cy, r = (geometry[:, k, i, None, None] for i in range(3))
        x, y = centres[None, None, :] - cx, centres[None, :, None] - cy
        outside = x.new_full((len(ground), size, size), FAR)
        for number, distance in enumerate(_distances(x, y, r.clamp(min=1e-6))):
            chosen = (shapes[:, k] == number)[:, None, None]
            outside = torch.where(chosen, distance, outside)
        cover = (0.5 - outside * size).clamp(0, 1)[:, None]
        image = image * (1 - cover) + colors[:, k, :, None, None] * cover
    return image / 127.5 - 1


def paint_scenes(scenes: Tensor, geometry: Tensor, size: int) -> Tensor:
    """Paint scenes in the format of ``specs.Specs``, in the world's own colours."""
    palette = torch.tensor(PALETTE, device=scenes.device)
    return paint(palette[scenes[:, 0]], palette[scenes[:, [1, 3]]], scenes[:, [2, 4]], geometry, size)


def _distances(x: Tensor, y: Tensor, r: Tensor) -> list[Tensor]:
    """Each pixel's distance to a circle, square, triangle and star, in the order of world.SHAPES."""
    reach = torch.sqrt(x * x + y * y)
    circle = reach - r
    square = torch.maximum(x.abs().expand_as(reach), y.abs().expand_as(reach)) - SQUARE_HALF * r
    slanted = x.abs() * math.cos(math.pi / 6) - y * 0.5 - r / 2
    triangle = torch.maximum(slanted, (y - r / 2).expand_as(reach))
    # A star is ten mirrored wedges: fold the plane into one, where its edge is a straight line.
    angle = torch.atan2(x.expand_as(reach), -y.expand_as(reach))
    angle = (angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5
    along, across = reach * torch.cos(angle), reach * torch.sin(angle).abs()
    edge_x = STAR_INNER * math.cos(math.pi / 5) - 1
    edge_y = STAR_INNER * math.sin(math.pi / 5)
    star = ((along - r) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)
    by_shape = {"circle": circle, "square": square, "triangle": triangle, "star": star}
    return [by_shape[shape] for shape in SHAPES]
