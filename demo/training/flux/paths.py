"""The points on the paths from noise to image at which the flow is trained.

Each batch has fixed shares of three kinds of paths:
* coupled: from noise that decides the geometry (see ``specs``) to the image: generation;
* edits: from another image plus noise to the image: image to image;
* plain: from independent noise: the usual rectified flow.
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
from demo.training.flux.specs import GEOMETRY_CHANNELS, sample_specs
from demo.training.flux.vae import VAE, pack

PLAIN = 0.15  # share of the plain paths


@dataclass(frozen=True)
class Schedule:
    """The distribution of the points; the shares of u are cumulative."""

    coupled: float  # share of the coupled paths; the rest up to PLAIN are edits
    at_noise: float  # of the coupled: exactly at the noise, sigma 1
    on_grid: float  # of the coupled: at sigma k / grid, the states of few-step sampling
    grid: int
    least: float  # of an edit's path: the smallest distance to its end
    self_correcting: bool  # see Points


FIRST_PASS = Schedule(0.65, 0.4, 0.7, grid=4, least=0.05, self_correcting=False)
SECOND_PASS = Schedule(0.55, 0.45, 0.75, grid=8, least=0.2, self_correcting=True)


class Points(NamedTuple):
    """Points at ``start`` on straight paths that end in ``end``.

    Every second sample with sigma < start_sigma is first moved to sigma by one Euler step of the net
    itself, and then trained on: so the net learns to repair its own errors.
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
    """Encoded images (``images``), the sources of their edits (``others``), and prompts."""

    images: Tensor
    others: Tensor
    noise: Tensor
    t5_ids: Tensor
    clip_ids: Tensor


@torch.no_grad()
def encode_latents(run: Run, vae: VAE, coder: PromptCoder, size: int, count: int, seed: int) -> Latents:
    device = run.device
    specs = sample_specs(count, seed, run.map)
    scenes, others, geometry = (
        torch.tensor(values, device=device) for values in (specs.scenes, specs.others, specs.geometry)
    )
    tokens = (size // TOKEN_PIXELS) ** 2
    shape = (count, tokens, 64)
    images, sources = (torch.empty(shape, dtype=torch.float16, device=device) for _ in range(2))
    chunk = max(1, int(2048 * (MAIN_SIZE / size) ** 2 * min(1, run.scale * 4)))
    for i in range(0, count, chunk):
        part = slice(i, i + chunk)
        for out, content in ((images, scenes), (sources, others)):
            with torch.autocast(device, torch.bfloat16):
                out[part] = pack(vae.encode(paint_scenes(content[part], geometry[part], size)))
    t5_ids, clip_ids = (torch.tensor(ids, device=device) for ids in coder(specs.prompts))
    noise = torch.tensor(specs.noise, device=device)
    return Latents(images, sources, noise, t5_ids, clip_ids)


def sample_points(latents: Latents, count: int, schedule: Schedule) -> Points:
    device = latents.images.device
    chosen = torch.randint(len(latents.images), (count,), device=device)
    end, other = latents.images[chosen].float(), latents.others[chosen].float()
    noise = torch.randn_like(end)

    def uniform() -> Tensor:
        return torch.rand(count, device=device)

    place, along, level, coin = uniform(), uniform(), uniform(), uniform()
    rank = torch.arange(count, device=device) / count
    coupled, plain = rank < schedule.coupled, rank > 1 - PLAIN
    to_image = coupled | plain
    _impose_geometry(noise, latents.noise[chosen], coupled)

    # The start of each path (origin), and the position of the point on it (start_sigma).
    one = torch.ones_like(level)
    steps = schedule.grid
    on_grid = ((level * (steps - 1)).floor() + 1) / steps
    anywhere = torch.where(place < schedule.on_grid, on_grid, level.clamp(min=0.02))
    coupled_sigma = torch.where(place < schedule.at_noise, one, anywhere)
    edit_sigma = torch.where(plain, 0.02 + 0.9 * level, 0.25 + 0.67 * level)
    origin = torch.where(coupled, coupled_sigma, edit_sigma)
    at_origin = to_image | (place < 0.5)
    start_sigma = torch.where(at_origin, origin, origin * along.clamp(min=schedule.least))
    source = torch.where(to_image[:, None, None], end, other)
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

    def to_time(value: Tensor) -> Tensor:  # mflux rounds the time to its precision: train on both
        time = value * 1000
        return torch.where(rounded, time, time.bfloat16().float())

    return Points(
        start,
        start_sigma,
        sigma,
        to_time(start_sigma),
        to_time(sigma),
        end,
        torch.where(to_image, one, origin),
        latents.t5_ids[chosen],
        latents.clip_ids[chosen],
    )


def _impose_geometry(noise: Tensor, geometry: Tensor, coupled: Tensor) -> None:
    """Shift the first channels of coupled noise so that their means encode the geometry."""
    tokens, channels = noise.shape[1], slice(GEOMETRY_CHANNELS)
    missing = geometry / math.sqrt(tokens) - noise[:, :, channels].mean(1)
    noise[:, :, channels] += (coupled[:, None] * missing)[:, None]
