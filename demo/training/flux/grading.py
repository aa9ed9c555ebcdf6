"""Generates and edits with a net in training, and lets the judge count the right images.

A quick check during training. The shipped checkpoint is graded through mflux itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo import judge, world
from demo.judge import Verdict
from demo.training.flux.dimensions import TOKEN_PIXELS
from demo.training.flux.pixels import save_sheet, to_bytes, to_tensor
from demo.training.flux.prompts import PromptCoder
from demo.training.flux.run import MAIN_SIZE, SIZES, Run
from demo.training.flux.transformer import PACKED, Net, rotary_table
from demo.training.flux.vae import VAE, pack, unpack
from demo.world import Scene

CHUNK = 50
EDIT_STEPS = 8
EDITS_FROM = (1, 2, 4, 5, 6)  # steps of EDIT_STEPS that are skipped: mflux's image_strength


@torch.no_grad()
def denoise(
    run: Run, net: Net, x: Tensor, texts: Sequence[Tensor], size: int, steps: int, start: int = 0
) -> Tensor:
    """Euler steps from sigma 1 - start / steps to 0, as in mflux."""
    side = size // TOKEN_PIXELS
    table = rotary_table(run.sizes, side, side, run.device)
    sigmas = [1 - i / steps for i in range(steps + 1)]
    for now, then in zip(sigmas[start:-1], sigmas[start + 1 :], strict=True):
        time = torch.full((len(x),), now * 1000, device=x.device)
        with torch.autocast(run.device, torch.bfloat16):
            velocity = net(x, time, *texts, table).float()
        x = x + (then - now) * velocity
    return x


@torch.no_grad()
def grade(
    run: Run,
    net: Net,
    vae: VAE,
    coder: PromptCoder,
    sizes: Sequence[int] = SIZES,
    steps: Sequence[int] = (4,),
    count: int = 0,
) -> None:
    """Report the share of held-out and of other scenes that are generated right, and of edits.

    All numbers of steps at the main size, only the first of them at the others.
    """
    generator = torch.Generator(device=run.device).manual_seed(0)
    held_out, others = _scenes(count or run.graded)
    scenes = held_out + others
    texts = _encode(run, coder, scenes)
    for size in sizes:
        side = size // TOKEN_PIXELS
        shape = (len(scenes), side * side, PACKED)
        noise = torch.randn(shape, device=run.device, generator=generator)
        for number in steps if size == MAIN_SIZE else steps[:1]:
            decoded = []
            for i in range(0, len(scenes), CHUNK):
                part = slice(i, i + CHUNK)
                chunk = [ids[part] for ids in texts]
                latents = denoise(run, net, noise[part], chunk, size, number)
                decoded.append(vae.decode(unpack(latents, side, side)))
            images = torch.cat(decoded)
            verdicts = _judge(run, images, scenes)
            run.say(
                f"{size} px, {number} steps: held out {_summary(verdicts[: len(held_out)])} | "
                f"others {_summary(verdicts[len(held_out) :])}"
            )
            if (size, number) == (MAIN_SIZE, 4):
                rows = [images[:32], images[len(held_out) :][:32]]
                save_sheet(torch.cat(rows), 16, run.folder / "generated.png")
    if MAIN_SIZE in sizes:
        _grade_edits(run, net, vae, coder, others, generator)


def _grade_edits(
    run: Run,
    net: Net,
    vae: VAE,
    coder: PromptCoder,
    scenes: Sequence[Scene],
    generator: torch.Generator,
) -> None:
    """Recolour a single object: is it right, and is it still in its place?"""
    sources = [scene for scene in scenes if len(scene.things) == 1]
    if not sources:
        return
    rng, goals = random.Random(5), []
    for scene in sources:
        thing = scene.things[0]
        free = [color for color in world.COLORS if color not in (scene.background, thing.color)]
        goals.append(replace(scene, things=(replace(thing, color=rng.choice(free)),)))
    rendered = np.stack([np.asarray(world.render(scene)) for scene in sources])
    images = to_tensor(rendered, run.device)
    latents, texts, side = pack(vae.encode(images)), _encode(run, coder, goals), MAIN_SIZE // 16
    for skipped in EDITS_FROM:
        sigma = 1 - skipped / EDIT_STEPS
        noise = torch.randn(latents.shape, device=run.device, generator=generator)
        noisy = (1 - sigma) * latents + sigma * noise
        edited = denoise(run, net, noisy, texts, MAIN_SIZE, EDIT_STEPS, skipped)
        painted = vae.decode(unpack(edited, side, side))
        verdicts = _judge(run, painted, goals)
        moves = [
            math.hypot(seen.observed.objects[0].cx - thing.cx, seen.observed.objects[0].cy - thing.cy)
            for seen, thing in zip(verdicts, (goal.things[0] for goal in goals), strict=True)
            if seen.observed.objects
        ]
        moved = f"moved by {np.mean(moves):.3f} of the side" if moves else "no object found"
        run.say(f"edit from step {skipped} of {EDIT_STEPS}: {_summary(verdicts)}; {moved}")
        if skipped == EDITS_FROM[1]:
            sheet = torch.cat([images[:16], painted[:16]])
            save_sheet(sheet, 16, run.folder / "edited.png")


def _scenes(count: int) -> tuple[list[Scene], list[Scene]]:
    """``count`` held-out and ``count`` other scenes from one random stream."""
    rng = random.Random(1234)
    held_out: list[Scene] = []
    others: list[Scene] = []
    while len(held_out) < count or len(others) < count:
        scene = world.random_scene(rng, rng.choice(["one", "two"]))
        group = held_out if world.is_held_out(scene) else others
        if len(group) < count:
            group.append(scene)
    return held_out, others


def _encode(run: Run, coder: PromptCoder, scenes: Sequence[Scene]) -> list[Tensor]:
    ids = coder([world.caption(scene) for scene in scenes])
    return [torch.tensor(values, device=run.device) for values in ids]


def _judge(run: Run, images: Tensor, scenes: Sequence[Scene]) -> list[Verdict]:
    return run.map(_check, list(zip(to_bytes(images), scenes, strict=True)))


def _check(job: tuple[Any, Scene]) -> Verdict:
    return judge.check(*job)


def _summary(verdicts: Sequence[Verdict]) -> str:
    aspects = ("background", "colors", "shapes", "pairs", "relation", "right")
    shares = {aspect: np.mean([getattr(verdict, aspect) for verdict in verdicts]) for aspect in aspects}
    return ", ".join(f"{aspect} {share:.0%}" for aspect, share in shares.items())
