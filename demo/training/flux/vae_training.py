"""Trains the VAE: first both halves, later the decoder alone with fixed latents.

Three quarters of each batch are shapes painted on the device, a third of these in random colours. The
rest is rendered by the world itself, half of it words. Noise on the latents makes the decoder tolerate
small errors of the flow.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.training.flux.painter import paint
from demo.training.flux.pixels import psnr, save_sheet, to_tensor
from demo.training.flux.run import MAIN_SIZE, SIZES, Run, learning_rate
from demo.training.flux.specs import PALETTE, render_scenes, sample_specs
from demo.training.flux.vae import VAE

FILE = "vae.pt"
TURNS = (128, 64, 128, 192, 128, 64, 128, 256)  # the image size of each step, repeated
BATCHES = {128: 64, 64: 192, 192: 28, 256: 16}
REPORT_EVERY = 250


@dataclass(frozen=True)
class VaePass:
    seconds: float
    peak: float  # learning rate
    decoder_only: bool = False
    seed: int = 0


def load_vae(run: Run) -> VAE:
    vae = VAE(run.sizes).to(run.device)
    vae.load_state_dict(torch.load(run.folder / FILE, map_location=run.device))
    return vae.eval().requires_grad_(False)


def train_vae(run: Run, settings: VaePass) -> None:
    """Write run.folder/vae.pt: the averaged weights, rounded to bf16 as they are shipped."""
    torch.manual_seed(settings.seed)
    torch.backends.cudnn.benchmark = True
    data, exam = VaeData(run), VaeExam(run)
    net, average = VAE(run.sizes).to(run.device), VAE(run.sizes).to(run.device)
    if settings.decoder_only:
        net.load_state_dict(torch.load(run.folder / FILE, map_location=run.device))
        net.encoder.requires_grad_(False)
    average.load_state_dict(net.state_dict())
    if run.on_gpu:
        net = net.to(memory_format=torch.channels_last)
    trained, averaged = (
        list((m.decoder if settings.decoder_only else m).parameters()) for m in (net, average)
    )
    run.say(f"VAE: {sum(p.numel() for p in trained)} parameters to train")
    optimizer = torch.optim.AdamW(
        trained, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=run.on_gpu
    )
    begun, step, losses = time.monotonic(), 0, torch.zeros((), device=run.device)
    while (share := (time.monotonic() - begun) / settings.seconds) < 1 and step < run.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.peak, share)
        images = data.batch(TURNS[step % len(TURNS)])
        with torch.autocast(run.device, torch.bfloat16):
            with torch.set_grad_enabled(not settings.decoder_only):
                latents = net.encode(images).float()
            noise = torch.randn_like(latents)
            amount = torch.rand(len(images), 1, 1, 1, device=run.device) * 0.25
            decoded = net.decode(latents + noise * amount).float()
        loss = _loss(decoded, images, latents)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():  # an average that soon forgets the first steps
            torch._foreach_lerp_(averaged, trained, 1 - min(0.999, (step + 1) / (step + 20)))
        losses += loss.detach()
        step += 1
        if step % REPORT_EVERY == 0 or step == run.max_steps:
            mean = float(losses) / (step % REPORT_EVERY or REPORT_EVERY)
            losses.zero_()
            run.say(f"VAE step {step}: loss {mean:.4f}; {exam.brief(average)}")
    weights = {k: v.to(torch.bfloat16).float() for k, v in average.state_dict().items()}
    average.load_state_dict(weights)
    name = "vae-decoder" if settings.decoder_only else "vae"
    exam.final(average, name)
    torch.save(weights, run.folder / FILE)
    run.say(f"VAE: {step} steps")


def _loss(decoded: Tensor, images: Tensor, latents: Tensor) -> Tensor:
    """Pixels and their edges; latents near mean 0, spread 1 and within 4."""
    error = decoded - images
    across = error[..., 1:] - error[..., :-1]
    down = error[..., 1:, :] - error[..., :-1, :]
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return (
        error.abs().mean()
        + 2 * (error * error).mean()
        + 0.5 * (across.abs().mean() + down.abs().mean())
        + 0.02 * ((mean * mean).mean() + ((spread - 1) ** 2).mean())
        + 0.01 * F.relu(latents.abs() - 4).pow(2).mean()
    )


class VaeData:
    def __init__(self, run: Run) -> None:
        self._run = run
        specs = sample_specs(run.scaled(60000), 5, run.map)
        self._scenes = torch.tensor(specs.scenes, device=run.device)
        self._geometry = torch.tensor(specs.geometry, device=run.device)
        self._palette = torch.tensor(PALETTE, device=run.device)
        self._rendered = {
            size: self._render(size, run.scaled(count))
            for size, count in ((128, 6400), (64, 1600), (192, 1600), (256, 1600))
        }

    def _render(self, size: int, count: int) -> Tensor:
        jobs = [(900 + i, count // 16 + 1, size, 0.5) for i in range(16)]
        images = to_tensor(np.concatenate(self._run.map(render_scenes, jobs)), "cpu")
        return images.to(self._run.device, torch.float16)

    def batch(self, size: int) -> Tensor:
        device, count = self._run.device, self._run.scaled(BATCHES[size])
        from_world = max(1, count // 4)
        painted = count - from_world
        chosen = torch.randint(len(self._scenes), (painted,), device=device)
        scenes = self._scenes[chosen]
        ground, colors = self._palette[scenes[:, 0]], self._palette[scenes[:, [1, 3]]]
        any_color = (torch.rand(painted, 1, device=device) < 0.3).float()
        ground = ground + any_color * (torch.rand_like(ground) * 255 - ground)
        colors = colors + any_color[:, None] * (torch.rand_like(colors) * 255 - colors)
        shapes = paint(ground, colors, scenes[:, [2, 4]], self._geometry[chosen], size)
        rendered = self._rendered[size]
        picked = rendered[torch.randint(len(rendered), (from_world,), device=device)]
        return torch.cat([shapes, picked.float()])


class VaeExam:
    """The reconstruction error on fixed images of shapes, and of words."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shapes = self._images(7, 64, MAIN_SIZE, words=0)
        self._words = self._images(8, 64, MAIN_SIZE, words=1)

    def _images(self, seed: int, count: int, size: int, words: float) -> Tensor:
        images = self._run.map(render_scenes, [(seed, count, size, words)])
        return to_tensor(np.concatenate(images), self._run.device)

    @torch.no_grad()
    def brief(self, vae: VAE) -> str:
        with torch.autocast(self._run.device, torch.bfloat16):
            shapes, words = (vae.decode(vae.encode(p)) for p in (self._shapes, self._words))
        shapes_db = psnr(shapes.float(), self._shapes)
        return f"shapes {shapes_db:.1f} dB, words {psnr(words.float(), self._words):.1f} dB"

    @torch.no_grad()
    def final(self, vae: VAE, name: str) -> None:
        run = self._run
        for size in SIZES:
            images = self._images(70 + size, run.scaled(64), size, words=0)
            latents = vae.encode(images)
            results = []
            for noise in (0, 0.1, 0.25):
                decoded = vae.decode(latents + noise * torch.randn_like(latents))
                results.append(f"{psnr(decoded, images):.2f}")
            run.say(f"VAE {size} px: {' / '.join(results)} dB with latent noise 0 / 0.1 / 0.25")
        rows = [self._shapes[:8], self._words[:8]]
        tiles = [tile for row in rows for tile in (row, vae.decode(vae.encode(row)))]
        save_sheet(torch.cat(tiles), 8, run.folder / f"{name}.png")
