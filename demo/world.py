"""The shapes world: a tiny visual domain in which the exact content of every image is known.

A scene is one or two coloured shapes, or a word, on a coloured background. ``random_scene`` samples
one, ``render`` paints it, and the text functions (``caption``, ``ocr``, ``objects``, ``describe``,
``analyze``, ``korean``, ``question``) describe it, always in the same words. The demo checkpoints were
trained on exactly these images and texts, so every answer is either right or wrong. A tenth of the
shape scenes is held out of all training (``is_held_out``).

The checkpoints in ``demo/models`` depend on three things here, which therefore must never change: the
pixels, the texts, and the order of the random numbers. Tests pin all three.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from types import MappingProxyType
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw, ImageFont

Kind = Literal["one", "two", "word"]

COLORS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "green": (40, 160, 70),
        "blue": (40, 80, 220),
        "yellow": (245, 210, 50),
        "purple": (140, 60, 180),
        "orange": (245, 140, 30),
        "white": (245, 245, 245),
        "black": (25, 25, 25),
    }
)
SHAPES = ("circle", "square", "triangle", "star")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

KOREAN_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "red": "빨간",
        "green": "초록",
        "blue": "파란",
        "yellow": "노란",
        "purple": "보라",
        "orange": "주황",
        "white": "하얀",
        "black": "검은",
    }
)
KOREAN_SHAPES: Mapping[str, str] = MappingProxyType(
    {"circle": "원", "square": "사각형", "triangle": "삼각형", "star": "별"}
)

STAR_INNER = 0.45  # radius of a star's inner corners, as a share of its radius
SQUARE_HALF = 0.85  # half the side of a square, as a share of its radius


@dataclass(frozen=True)
class Thing:
    """One shape. Place and radius are fractions of the image's side."""

    color: str
    shape: str
    cx: float
    cy: float
    r: float


@dataclass(frozen=True)
class Scene:
    """The content of an image: things or a word in an ink, on a background.

    Two things are listed left to right or top to bottom, in the order in which the caption names them.
    """

    background: str
    things: tuple[Thing, ...] = ()
    word: str = ""
    ink: str = "black"


# ---------------------------------------------------------------- random scenes


def random_scene(rng: random.Random, kind: Kind | None = None) -> Scene:
    """A scene of the given kind, or of a random one (4 : 4 : 3)."""
    kinds: list[Kind] = ["one", "two", "word"]
    kind = kind or rng.choices(kinds, [4, 4, 3])[0]
    background = rng.choice(list(COLORS))
    others = [color for color in COLORS if color != background]
    if kind == "word":
        word = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 6)))
        return Scene(background, (), word, rng.choice(others))
    if kind == "one":
        return Scene(background, (_random_thing(rng, others),))
    return Scene(background, _random_pair(rng, others))


def _random_thing(rng: random.Random, colors: Sequence[str]) -> Thing:
    small, large = rng.uniform(0.14, 0.2), rng.uniform(0.28, 0.38)
    r = rng.choice([small, large])
    color, shape = rng.choice(colors), rng.choice(SHAPES)
    if rng.random() < 0.4:
        return Thing(color, shape, 0.5, 0.5, r)
    margin = r + 0.03
    cx, cy = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
    return Thing(color, shape, cx, cy, r)


def _random_pair(rng: random.Random, colors: Sequence[str]) -> tuple[Thing, Thing]:
    if rng.random() < 0.85:
        first, second = rng.sample(colors, 2)
    else:
        first = second = rng.choice(colors)
    first_shape, second_shape = rng.choice(SHAPES), rng.choice(SHAPES)
    first_r, second_r = rng.uniform(0.15, 0.21), rng.uniform(0.15, 0.21)

    def jitter() -> float:
        return rng.uniform(-0.05, 0.05)

    if rng.random() < 0.5:  # side by side
        return (
            Thing(first, first_shape, 0.26 + jitter(), 0.5 + 2 * jitter(), first_r),
            Thing(second, second_shape, 0.74 + jitter(), 0.5 + 2 * jitter(), second_r),
        )
    return (  # one above the other
        Thing(first, first_shape, 0.5 + 2 * jitter(), 0.26 + jitter(), first_r),
        Thing(second, second_shape, 0.5 + 2 * jitter(), 0.74 + jitter(), second_r),
    )


def scene_hash(scene: Scene) -> int:
    """Depends only on colours, shapes and their order: geometry does not make a scene new."""
    names = [scene.background, *(noun(thing) for thing in scene.things)]
    return zlib.crc32("|".join(names).encode())


def is_held_out(scene: Scene) -> bool:
    """Is this combination of background, colours and shapes held out of all training?"""
    return bool(scene.things) and scene_hash(scene) % 10 == 0


def sample_scenes(
    rng: random.Random,
    count: int,
    *,
    held_out: bool = False,
    kinds: Sequence[Kind] | None = None,
) -> list[Scene]:
    """``count`` scenes that are all held out, or all not.

    Without ``kinds``: any kind; held-out scenes are "one" or "two", because no word is ever held out.
    """
    if kinds is None and held_out:
        kinds = ("one", "two")
    if held_out and kinds == ("word",):
        raise ValueError("no word is ever held out")
    scenes: list[Scene] = []
    while len(scenes) < count:
        kind: Kind | None = None
        if kinds:
            kind = kinds[0] if len(kinds) == 1 else rng.choice(kinds)
        scene = random_scene(rng, kind)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


# ---------------------------------------------------------------- rendering


def render(scene: Scene, size: int = 128, oversample: int = 3) -> Image.Image:
    """The scene as a square RGB image, painted larger and scaled down for smooth edges."""
    side = size * oversample
    image = Image.new("RGB", (side, side), COLORS[scene.background])
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(draw, thing, side)
    if scene.word:
        height = int(side * min(0.42, 1.35 / max(2, len(scene.word))))
        font = ImageFont.load_default(size=height)
        middle = (side / 2, side / 2)
        draw.text(middle, scene.word, fill=COLORS[scene.ink], font=font, anchor="mm")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, side: int) -> None:
    cx, cy, r = thing.cx * side, thing.cy * side, thing.r * side
    fill = COLORS[thing.color]
    if thing.shape == "circle":
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=fill)
    elif thing.shape == "square":
        half = SQUARE_HALF * r
        draw.rectangle([cx - half, cy - half, cx + half, cy + half], fill=fill)
    elif thing.shape == "triangle":
        corners = (-pi / 2, pi / 6, 5 * pi / 6)
        draw.polygon([(cx + r * cos(a), cy + r * sin(a)) for a in corners], fill=fill)
    else:
        points = []
        for i in range(10):
            reach, angle = (r if i % 2 == 0 else STAR_INNER * r), -pi / 2 + i * pi / 5
            points.append((cx + reach * cos(angle), cy + reach * sin(angle)))
        draw.polygon(points, fill=fill)


# ---------------------------------------------------------------- words for objects


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def noun(thing: Thing) -> str:
    return f"{thing.color} {thing.shape}"


def place(thing: Thing) -> str:
    """center, left, right, top or bottom."""
    dx, dy = thing.cx - 0.5, thing.cy - 0.5
    if max(abs(dx), abs(dy)) < 0.12:
        return "center"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def size_word(thing: Thing) -> str:
    return "large" if thing.r > 0.24 else "small"


def side_by_side(scene: Scene) -> bool:
    """Are the two things of a scene left and right of each other, not above and below?"""
    first, second = scene.things
    return abs(first.cx - second.cx) > abs(first.cy - second.cy)


# ---------------------------------------------------------------- true texts


def caption(scene: Scene) -> str:
    ground = f"on {with_article(scene.background)} background"
    if scene.word:
        return f'the word "{scene.word}" in {scene.ink} {ground}'
    if len(scene.things) == 1:
        return f"{with_article(noun(scene.things[0]))} {ground}"
    first, second = (with_article(noun(thing)) for thing in scene.things)
    relation = "to the left of" if side_by_side(scene) else "above"
    return f"{first} {relation} {second} {ground}"


def objects(scene: Scene) -> str:
    return "\n".join(noun(thing) for thing in scene.things) or f'text "{scene.word}"'


def ocr(scene: Scene) -> str:
    return scene.word or "no text"


def describe(scene: Scene) -> str:
    ground = f"on {with_article(scene.background)} background"
    if scene.word:
        return f'The image shows the word "{scene.word}" written in {scene.ink} {ground}.'
    parts = [
        f"{with_article(f'{size_word(thing)} {noun(thing)}')} at the {place(thing)}"
        for thing in scene.things
    ]
    return f"The image shows {' and '.join(parts)}, {ground}."


def analyze(scene: Scene) -> str:
    places = ", ".join(f"{noun(thing)} at the {place(thing)}" for thing in scene.things)
    return (
        f"Subject: {caption(scene)}. Objects: {places or 'none'}. "
        f"Background: {scene.background}. Text: {scene.word or 'none'}."
    )


def korean(scene: Scene) -> str:
    ground = f"{KOREAN_COLORS[scene.background]} 배경"
    if scene.word:
        return f'{ground}에 "{scene.word}" 글자'
    names = (f"{KOREAN_COLORS[t.color]} {KOREAN_SHAPES[t.shape]}" for t in scene.things)
    return f"{ground}에 {'과 '.join(names)}"


_WHAT_COLOR = "What color is"


def question(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A question about the scene that has exactly one answer, and that answer."""
    pairs = [
        ("What color is the background?", scene.background),
        ("How many shapes are there?", str(len(scene.things))),
    ]
    if scene.things:
        thing = rng.choice(scene.things)
        if sum(other.shape == thing.shape for other in scene.things) == 1:
            pairs.append((f"{_WHAT_COLOR} the {thing.shape}?", thing.color))
        if sum(other.color == thing.color for other in scene.things) == 1:
            pairs.append((f"What shape is {thing.color}?", thing.shape))
        pairs.append((f"Is there a {thing.shape}?", "yes"))
        absent = [s for s in SHAPES if all(other.shape != s for other in scene.things)]
        if absent:
            pairs.append((f"Is there a {rng.choice(absent)}?", "no"))
    return rng.choice(pairs)


class Task(NamedTuple):
    """A task for any scene: its wordings (the product's default first) and its answer."""

    prompts: tuple[str, ...]
    answer: Callable[[Scene], str]


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "caption": Task(
            (
                "Write a one-sentence caption for this image.",
                "What is in this image?",
                "What's in this image?",
                "Caption this image.",
            ),
            caption,
        ),
        "ocr": Task(
            (
                "Read all the text in this image. Reply with the text only.",
                "What does the text say?",
                "OCR",
                "Extract the text.",
            ),
            ocr,
        ),
        "describe": Task(("Describe this image in detail.", "Describe the image."), describe),
        "analyze": Task(
            (
                "Analyze this image: main subject, objects and their positions, colors, and any text.",
                "Analyze the image.",
            ),
            analyze,
        ),
        "objects": Task(
            ("List the objects in this image, one per line.", "Which objects are there?"), objects
        ),
        "korean": Task(("이 이미지에 뭐가 있어?", "이 이미지를 설명해 줘."), korean),
    }
)
