"""Where on the paths from noise to picture the flow is trained.

Three kinds of paths, in each batch in fixed shares:
* coupled: from noise that decides the geometry (see ``specs``) to the picture: drawing;
* edits: from another picture plus noise to the picture: image to image;
* plain: from independent noise: rectified flow as everyone knows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from demo.training.flux.dimensions import TOKEN_PIXELS
from demo.training.flux.painter import paint_scenes
from demo.training.flux.prompts import PromptCoder
from demo.training.flux.run import MAIN_SIZE, Run
from demo.training.flux.specs import GEOMETRY_CHANNELS, draw_specs
from demo.training.flux.vae import VAE, pack

PLAIN = 0.15  # share of the plain paths


@dataclass(frozen=True)
class Schedule:
    """How points are spread; the shares of u are cumulative."""

    coupled: float  # share of the coupled paths; what is left to PLAIN are edits
    at_noise: float  # of the coupled: right at the noise, sigma 1
    on_grid: float  # of the coupled: at sigma k / grid, where few-step sampling stops
    grid: int
    least: float  # of an edit's path: how near its end a point may lie
    self_correcting: bool  # see Points


FIRST_PASS = Schedule(0.65, 0.4, 0.7, grid=4, least=0.05, self_correcting=False)
SECOND_PASS = Schedule(0.55, 0.45, 0.75, grid=8, least=0.2, self_correcting=True)


class Points(NamedTuple):
    """Points on straight paths that end in ``end``, at ``start``.

    Every second sample with sigma < start_sigma is to be moved there by one Euler step of the net
    itself before it is trained on: so the net learns to repair its own errors.
    """

    start: Tensor
    start_sigma: Tensor
    sigma: Tensor
    start_time: Tensor
    time: Tensor
    end: Tensor
    weight: Tensor
    t5_ids: Tensor
    clip_ids: Tensor


class Latents(NamedTuple):
    """Encoded pictures (``pictures``), what they may be edited from (``others``), and prompts."""

    pictures: Tensor
    others: Tensor
    noise: Tensor
    t5_ids: Tensor
    clip_ids: Tensor


@torch.no_grad()
def encode_latents(run: Run, vae: VAE, coder: PromptCoder, size: int, count: int, seed: int) -> Latents:
    device = run.device
    specs = draw_specs(count, seed, run.map)
    scenes, others, geometry = (
        torch.tensor(values, device=device) for values in (specs.scenes, specs.others, specs.geometry)
    )
    tokens = (size // TOKEN_PIXELS) ** 2
    shape = (count, tokens, 64)
    pictures, sources = (torch.empty(shape, dtype=torch.float16, device=device) for _ in range(2))
    chunk = max(1, int(2048 * (MAIN_SIZE / size) ** 2 * min(1, run.scale * 4)))
    for i in range(0, count, chunk):
        part = slice(i, i + chunk)
        for out, shown in ((pictures, scenes), (sources, others)):
            with torch.autocast(device, torch.bfloat16):
                out[part] = pack(vae.encode(paint_scenes(shown[part], geometry[part], size)))
    t5_ids, clip_ids = (torch.tensor(ids, device=device) for ids in coder(specs.prompts))
    noise = torch.tensor(specs.noise, device=device)
    return Latents(pictures, sources, noise, t5_ids, clip_ids)


def draw_points(latents: Latents, count: int, schedule: Schedule) -> Points:
    device = latents.pictures.device
    chosen = torch.randint(len(latents.pictures), (count,), device=device)
    end, other = latents.pictures[chosen].float(), latents.others[chosen].float()
    noise = torch.randn_like(end)

    def uniform() -> Tensor:
        return torch.rand(count, device=device)

    place, along, level, coin = uniform(), uniform(), uniform(), uniform()
    rank = torch.arange(count, device=device) / count
    coupled, plain = rank < schedule.coupled, rank > 1 - PLAIN
    to_picture = coupled | plain
    _impose_geometry(noise, latents.noise[chosen], coupled)

    # Where each path starts (origin) and where on it the point lies (start_sigma).
    one = torch.ones_like(level)
    steps = schedule.grid
    on_grid = ((level * (steps - 1)).floor() + 1) / steps
    anywhere = torch.where(place < schedule.on_grid, on_grid, level.clamp(min=0.02))
    coupled_sigma = torch.where(place < schedule.at_noise, one, anywhere)
    edit_sigma = torch.where(plain, 0.02 + 0.9 * level, 0.25 + 0.67 * level)
    origin = torch.where(coupled, coupled_sigma, edit_sigma)
    at_origin = to_picture | (place < 0.5)
    start_sigma = torch.where(at_origin, origin, origin * along.clamp(min=schedule.least))
    source = torch.where(to_picture[:, None, None], end, other)
    share = origin[:, None, None]
    offset = (1 - share) * source + share * noise - end
    start = end + (start_sigma / origin)[:, None, None] * offset

    sigma, rounded = start_sigma, coin < 0.5
    if schedule.self_correcting:
        stride = uniform()
        step = torch.where(stride < 0.75, (stride * 4).floor() / 8 + 0.125, along * 0.6)
        even = torch.arange(count, device=device) % 2 == 0
        step = torch.where((coin < 0.7) & even, step, torch.zeros_like(step))
        sigma = torch.minimum((start_sigma - step).clamp(min=0.1), start_sigma)
        rounded = coin * 10 % 1 < 0.5

    def to_time(value: Tensor) -> Tensor:  # mflux rounds the time to its precision: know both
        time = value * 1000
        return torch.where(rounded, time, time.bfloat16().float())

    return Points(
        start,
        start_sigma,
        sigma,
        to_time(start_sigma),
        to_time(sigma),
        end,
        torch.where(to_picture, one, origin),
        latents.t5_ids[chosen],
        latents.clip_ids[chosen],
    )


def _impose_geometry(noise: Tensor, geometry: Tensor, coupled: Tensor) -> None:
    """Shift the first channels of coupled noise so that their means spell the geometry."""
    tokens, channels = noise.shape[1], slice(GEOMETRY_CHANNELS)
    missing = geometry / math.sqrt(tokens) - noise[:, :, channels].mean(1)
    noise[:, :, channels] += (coupled[:, None] * missing)[:, None]
