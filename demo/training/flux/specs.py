"""Training examples: prompts, scenes, and noise that decides the details a prompt leaves open.

Why four steps are enough: every free parameter of a scene (places, sizes) is a function of the
initial noise, u_k = Phi(z_k), where z_k = sqrt(N) * mean over the N tokens of channel k of the packed
noise. z_k is standard normal, so any Gaussian noise works at inference, but given the prompt each
training pair of noise and image is deterministic. The paths between them are therefore straight and
do not cross, which is the aim of reflow and optimal transport, and few Euler steps follow them well.

No torch here: this runs in worker processes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from demo import world
from demo.world import COLORS, SHAPES, Scene, Thing, with_article

COLOR_NAMES = tuple(COLORS)
PALETTE = np.array(list(COLORS.values()), np.float32)
GEOMETRY_CHANNELS = 6  # of the noise; two places and two sizes
NO_SHAPE = -1
CHUNK = 2000

Named = tuple[int, int]  # colour and shape of an object, by number
Spot = tuple[float, float, float]  # place and radius


@dataclass(frozen=True)
class Spec:
    """One image to generate, and the same geometry with other colours or shapes, to edit from."""

    prompt: str
    background: int
    things: list[Named]
    geometry: list[Spot]
    noise: list[float]
    other: tuple[int, list[Named]]


@dataclass(frozen=True)
class Specs:
    """Many specs as arrays.

    ``scenes`` and ``others``: (n, 5) ground, then colour and shape of two things (NO_SHAPE: none);
    ``geometry``: (n, 2, 3); ``noise``: (n, GEOMETRY_CHANNELS).
    """

    prompts: list[str]
    scenes: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    geometry: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]


Mapper = Callable[[Callable[[Any], Any], list[Any]], list[Any]]


def sample_specs(count: int, seed: int, run_all: Mapper) -> Specs:
    """``count`` specs; ``run_all`` maps a function over jobs, possibly in other processes."""
    chunks = range((count + CHUNK - 1) // CHUNK)
    jobs = [(seed * 100003 + i, min(CHUNK, count - i * CHUNK)) for i in chunks]
    parts: list[Specs] = run_all(_sample_chunk, jobs)
    return Specs(
        [prompt for part in parts for prompt in part.prompts],
        np.concatenate([part.scenes for part in parts]),
        np.concatenate([part.others for part in parts]),
        np.concatenate([part.geometry for part in parts]),
        np.concatenate([part.noise for part in parts]),
    )


def render_scenes(job: tuple[int, int, int, float]) -> npt.NDArray[np.uint8]:
    """Scenes rendered by the world itself, including words, for the VAE: (n, size, size, 3).

    The job is (seed, count, size, share of words) in one tuple, for Pool.map.
    """
    seed, count, size, words = job
    rng = random.Random(seed)
    images: list[npt.NDArray[np.uint8]] = []
    while len(images) < count:
        scene = world.random_scene(rng, "word" if rng.random() < words else None)
        if not world.is_held_out(scene):
            images.append(np.asarray(world.render(scene, size)))
    return np.stack(images)


def _sample_chunk(job: tuple[int, int]) -> Specs:
    seed, count = job
    rng = random.Random(seed)
    specs = [sample_spec(rng) for _ in range(count)]
    scenes = np.array([_numbers(spec.background, spec.things) for spec in specs], np.int64)
    others = np.array([_numbers(*spec.other) for spec in specs], np.int64)
    nowhere: Spot = (0, 0, 0)
    spots = [[spec.geometry[0], (*spec.geometry[1:], nowhere)[0]] for spec in specs]
    noise = np.array([spec.noise for spec in specs], np.float32)
    prompts = [spec.prompt for spec in specs]
    return Specs(prompts, scenes, others, np.array(spots, np.float32), noise)


def _numbers(background: int, things: list[Named]) -> list[int]:
    second = things[1] if len(things) > 1 else (0, NO_SHAPE)
    return [background, *things[0], *second]


def sample_spec(rng: random.Random) -> Spec:
    background, things = _pick(rng)
    noise = [rng.gauss(0, 1) for _ in range(GEOMETRY_CHANNELS)]
    uniform = [0.5 * (1 + math.erf(z / math.sqrt(2))) for z in noise]
    plain = rng.random() < 0.55  # the wording of world.caption
    ask = _prompt_one if len(things) == 1 else _prompt_two
    prompt, geometry = ask(rng, background, things, uniform, plain)
    if not plain or rng.random() < 0.1:
        prompt = _vary(rng, prompt)
    other = _recolor(rng, background, things)
    return Spec(prompt, background, things, geometry, noise, other)


def _is_held_out(background: int, things: list[Named]) -> bool:
    named = tuple(Thing(COLOR_NAMES[color], SHAPES[shape], 0, 0, 0) for color, shape in things)
    return world.is_held_out(Scene(COLOR_NAMES[background], named))


def _pick(rng: random.Random) -> tuple[int, list[Named]]:
    """A background and one or two objects, never a held-out combination."""
    while True:
        background = rng.randrange(8)
        colors = [color for color in range(8) if color != background]
        if rng.random() < 0.45:
            things = [(rng.choice(colors), rng.randrange(4))]
        else:
            if rng.random() < 0.85:
                first, second = rng.sample(colors, 2)
            else:
                first = second = rng.choice(colors)
            things = [(first, rng.randrange(4)), (second, rng.randrange(4))]
        if not _is_held_out(background, things):
            return background, things


def _recolor(rng: random.Random, background: int, things: list[Named]) -> tuple[int, list[Named]]:
    """Another colour, background or shape in the same geometry: the source of an edit."""
    for _ in range(20):
        ground, changed = background, list(things)
        i, choice = rng.randrange(len(things)), rng.random()
        if choice < 0.45:
            changed[i] = (rng.randrange(8), changed[i][1])
        elif choice < 0.75:
            ground = rng.randrange(8)
        elif choice < 0.9:
            changed[i] = (changed[i][0], rng.randrange(4))
        else:
            changed[i] = (rng.randrange(8), rng.randrange(4))
            ground = rng.randrange(8)
        visible = all(color != ground for color, _ in changed)
        same = (ground, changed) == (background, things)
        if visible and not same and not _is_held_out(ground, changed):
            return ground, changed
    return background, list(things)


# ---------------------------------------------------------------- prompts and geometry

_SIZES = {  # every spec samples from both, used or not: the random stream is part of the data
    "small": ["small", "small", "little", "tiny"],
    "large": ["large", "large", "big", "huge"],
}
_PLACES = ["center", "left", "right", "top", "bottom"]


def _noun(thing: Named) -> str:
    return f"{COLOR_NAMES[thing[0]]} {SHAPES[thing[1]]}"


def _prompt_one(
    rng: random.Random, background: int, things: list[Named], u: list[float], plain: bool
) -> tuple[str, list[Spot]]:
    size = place = ""
    if not plain and rng.random() < 0.35:
        size = rng.choice(["small", "large"])
    if not plain and not size and rng.random() < 0.35:
        place = rng.choice(_PLACES)
    spot = _spot(u, size, place)
    words = {name: rng.choice(choices) for name, choices in _SIZES.items()}
    thing, ground = f"{words.get(size, '')} {_noun(things[0])}".strip(), COLOR_NAMES[background]
    on_ground = f"on {with_article(ground)} background"
    if plain:
        return f"{with_article(thing)} {on_ground}", [spot]
    if place:
        if place == "center":
            where = rng.choice(["in the center", "in the middle", "at the center"])
        elif place in ("left", "right"):
            where = rng.choice([f"at the {place}", f"on the {place} side"])
        else:
            where = rng.choice([f"at the {place}"])
        placed = f"{with_article(thing)} {where}"
        of_ground = f"{placed} of {with_article(ground)} background"
        return rng.choice([f"{placed} {on_ground}", of_ground]), [spot]
    wordings = [
        f"{with_article(thing)} {on_ground}",
        f"{with_article(thing)} {on_ground}",
        f"{thing} on {ground} background",
        f"{thing}, {ground} background",
        f"{with_article(thing)} on {ground}",
        f"{with_article(ground)} background with {with_article(thing)}",
        f"the {thing} on the {ground} background",
        f"{thing} {on_ground}",
        f"{thing} on {ground}",
    ]
    return rng.choice(wordings), [spot]


def _spot(u: list[float], size: str, place: str) -> Spot:
    if size == "small":
        r = 0.14 + 0.07 * u[2]
    elif size == "large":
        r = 0.28 + 0.1 * u[2]
    elif place:
        r = 0.15 + 0.07 * u[2]
    else:
        r = 0.17 + 0.19 * u[2]
    spread = [2 * value - 1 for value in u[:2]]
    if not place:
        pulled = [value * abs(value) ** 0.5 for value in spread]  # towards the middle
        cx, cy = (0.5 + (0.5 - (r + 0.03)) * value for value in pulled)
        return cx, cy, r
    cx, cy = (0.5 + 0.05 * value for value in spread)
    if place in ("left", "right"):
        cx = (0.28 if place == "left" else 0.72) + 0.03 * spread[0]
    if place in ("top", "bottom"):
        cy = (0.28 if place == "top" else 0.72) + 0.03 * spread[1]
    return cx, cy, r


def _prompt_two(
    rng: random.Random, background: int, things: list[Named], u: list[float], plain: bool
) -> tuple[str, list[Spot]]:
    first, second = (_noun(thing) for thing in things)
    ground = COLOR_NAMES[background]
    beside = rng.random() < 0.5
    if plain:
        relation = "to the left of" if beside else "above"
        prompt = f"{with_article(first)} {relation} {with_article(second)}"
        prompt += f" on {with_article(ground)} background"
    else:
        choice = rng.random()
        if choice < 0.35:  # stated from the other side
            relation = rng.choice(["to the right of", "right of"] if beside else ["below", "under"])
            first, second = second, first
        elif choice < 0.6:
            relation = "left of" if beside else rng.choice(["above", "over"])
        else:
            relation, beside = rng.choice(["and", "and", "next to", "beside"]), True
        article = with_article if rng.random() < 0.75 else str
        on_ground = f"on {with_article(ground)} background"
        wordings = [on_ground, on_ground, f"on {ground} background", f"on {ground}"]
        prompt = f"{article(first)} {relation} {article(second)} {rng.choice(wordings)}"
    jitter = [0.05 * (2 * value - 1) for value in u[:4]]
    first_r, second_r = 0.15 + 0.06 * u[4], 0.15 + 0.06 * u[5]
    if beside:
        one = (0.26 + jitter[0], 0.5 + 2 * jitter[1], first_r)
        two = (0.74 + jitter[2], 0.5 + 2 * jitter[3], second_r)
    else:
        one = (0.5 + 2 * jitter[0], 0.26 + jitter[1], first_r)
        two = (0.5 + 2 * jitter[2], 0.74 + jitter[3], second_r)
    return prompt, [one, two]


_ORDERS = [
    *(f"{verb} " for verb in ("draw", "paint", "show", "make")),
    *(f"{with_article(noun)} of " for noun in ("picture", "image", "drawing", "photo")),
]


def _vary(rng: random.Random, prompt: str) -> str:
    if rng.random() < 0.12:
        prompt = rng.choice(_ORDERS) + prompt
    if rng.random() < 0.3:
        prompt = prompt[0].upper() + prompt[1:]
    if rng.random() < 0.3:
        prompt += "."
    return prompt
