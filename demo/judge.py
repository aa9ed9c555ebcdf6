"""Judges images and captions of the shapes world.

``observe`` segments an image: the background, and colour, shape and place of every object. ``check``
compares this with a scene, ``check_caption`` with the scene that a caption names, and
``parse_caption`` parses a caption. Needs numpy only.

Rules: no randomness, no model, and every rendered scene of ``demo.world`` must be judged right.
Words in an image are not recognized: their letters become objects without a shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from demo.world import COLORS, SHAPES, STAR_INNER, Scene, side_by_side

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float64]
Axis = Literal["x", "y"]

COLOR_NAMES = tuple(COLORS)
PALETTE: Pixels = np.array(list(COLORS.values()), dtype=np.float64)

UNKNOWN = "?"
MIN_AREA = 0.006  # of the image; smaller regions are noise
MIN_CORE = 6  # pixels that an object must have left after its rim is eroded
MIN_FIT = 0.75  # overlap with the best template below which a shape is unknown
MIN_GAP = 0.15  # of the side; objects closer than this have no clear order
FINE = 100  # pixels; smaller images have rims one pixel wide instead of two


@dataclass(frozen=True)
class SeenObject:
    """One object in an image. Places are fractions of the image's sides."""

    color: str
    shape: str  # UNKNOWN if no template fits
    guess: str  # the best template, even if it fits badly
    fit: float  # the template's overlap with the object: intersection over union
    cx: float
    cy: float
    area: float
    color_error: float  # largest distance of a channel from the palette's colour


@dataclass(frozen=True)
class Observation:
    """The content of an image, largest object first."""

    background: str
    objects: tuple[SeenObject, ...]


@dataclass(frozen=True)
class Expected:
    """The expected content of an image: (colour, shape) pairs, from left to right or top to bottom.

    ``axis`` is the direction in which two objects are ordered; None if the order is free.
    """

    background: str
    things: tuple[tuple[str, str], ...]
    axis: Axis | None = None
    word: str = ""
    ink: str = ""


@dataclass(frozen=True)
class Verdict:
    """The aspects of an image that are right. ``observed`` holds its actual content."""

    background: bool
    count: bool
    colors: bool
    shapes: bool
    pairs: bool  # the colours are on the right shapes
    relation: bool
    observed: Observation

    @property
    def right(self) -> bool:
        return self.background and self.pairs and self.relation


# ---------------------------------------------------------------- verdicts


def expected(scene: Scene) -> Expected:
    """The content that a scene requires; of its geometry only the order of two objects."""
    axis: Axis | None = None
    if len(scene.things) == 2:
        axis = "x" if side_by_side(scene) else "y"
    pairs = tuple((thing.color, thing.shape) for thing in scene.things)
    return Expected(scene.background, pairs, axis, scene.word, scene.ink if scene.word else "")


def check(image: Any, scene: Scene) -> Verdict:
    """Compare an image (a PIL image or an array of RGB bytes) with a scene of shapes."""
    return compare(observe(image), expected(scene))


def check_caption(image: Any, caption: str) -> Verdict:
    """Compare an image with the caption it was generated from. ValueError if it names no scene."""
    parsed = parse_caption(caption)
    if parsed is None:
        raise ValueError(f"not a caption of the shapes world: {caption!r}")
    return compare(observe(image), parsed)


def compare(seen: Observation, goal: Expected) -> Verdict:
    if goal.word:
        raise ValueError("words are not read: only shapes can be judged")
    got = [(thing.color, thing.shape) for thing in seen.objects]
    want = list(goal.things)
    pairs = sorted(got) == sorted(want)
    return Verdict(
        background=seen.background == goal.background,
        count=len(got) == len(want),
        colors=sorted(color for color, _ in got) == sorted(color for color, _ in want),
        shapes=sorted(shape for _, shape in got) == sorted(shape for _, shape in want),
        pairs=pairs,
        relation=pairs and _in_order(seen.objects, goal),
        observed=seen,
    )


def _in_order(seen: tuple[SeenObject, ...], goal: Expected) -> bool:
    if goal.axis is None or len(seen) != 2 or len(goal.things) != 2:
        return True

    def along(thing: SeenObject) -> float:
        return thing.cx if goal.axis == "x" else thing.cy

    first, second = sorted(seen, key=along)
    named = ((first.color, first.shape), (second.color, second.shape))
    return named == goal.things and along(second) - along(first) > MIN_GAP


# ---------------------------------------------------------------- captions

_COLOR = rf"({'|'.join(COLORS)})"
_THING = re.compile(rf"\b{_COLOR} ({'|'.join(SHAPES)})\b")
_GROUND = re.compile(rf"\b{_COLOR} background\b|\bbackground: {_COLOR}\b")
_WORD = re.compile(rf'\bword "([^"]*)"(?: written)? in {_COLOR}\b', re.IGNORECASE)
_RELATIONS: tuple[tuple[str, Axis, bool], ...] = (  # wording, axis, is the second object first?
    ("to the left of", "x", False),
    ("to the right of", "x", True),
    ("above", "y", False),
    ("below", "y", True),
)


def parse_caption(text: str) -> Expected | None:
    """The scene that a caption names; None without a background, or without both shape and word.

    Lenient on purpose: descriptions ("... a large red circle at the center, ...") and prompts
    ("draw a red circle on a blue background") are parsed as well.
    """
    plain = " ".join(text.lower().split())
    ground = _GROUND.search(plain)
    if ground is None:
        return None
    background = ground[1] or ground[2]
    word = _WORD.search(text)
    if word is not None:
        return Expected(background, (), None, word[1], word[2].lower())
    found = list(_THING.finditer(plain))
    if not found:
        return None
    things = tuple((match[1], match[2]) for match in found)
    if len(found) != 2:
        return Expected(background, things)
    between = plain[found[0].end() : found[1].start()]
    for wording, axis, swapped in _RELATIONS:
        if wording in between:
            return Expected(background, things[::-1] if swapped else things, axis)
    return Expected(background, things)


def caption_agrees(text: str, scene: Scene) -> bool:
    """Does a caption name the right background, colours and shapes, or the right word and ink?

    A relation may be omitted or stated from the other side, but must not be wrong.
    """
    named, truth = parse_caption(text), expected(scene)
    if named is None or sorted(named.things) != sorted(truth.things):
        return False
    if (named.background, named.word, named.ink) != (truth.background, truth.word, truth.ink):
        return False
    return named.axis is None or (named.axis, named.things) == (truth.axis, truth.things)


# ---------------------------------------------------------------- segmentation


def observe(image: Any, min_area: float = MIN_AREA) -> Observation:
    """Find the background and the objects of an image (a PIL image or an array of RGB bytes)."""
    rgb = image.convert("RGB") if hasattr(image, "convert") else image
    pixels: Pixels = np.asarray(rgb).astype(np.float64)
    height, width = pixels.shape[:2]
    nearest = ((pixels[:, :, None] - PALETTE) ** 2).sum(-1).argmin(-1)
    rim = (nearest[:3], nearest[-3:], nearest[:, :3], nearest[:, -3:])
    votes = np.bincount(np.concatenate([strip.ravel() for strip in rim]), minlength=len(PALETTE))
    ground = int(votes.argmax())
    inner = _shrink(nearest == ground)
    ground_rgb = pixels[inner if inner.any() else nearest == ground].mean(0)

    objects = []
    eroded = 1 if min(height, width) < FINE else 2
    for color in range(len(PALETTE)):
        if color == ground:
            continue
        of_color = nearest == color
        labels = _components(_shrink(of_color, eroded))
        for label in np.unique(labels[labels > 0]):
            core = labels == label
            if core.sum() < MIN_CORE:
                continue
            body = _grow(core, eroded) & of_color
            for _ in range(3):  # grow back the corners that the erosion removed
                body = body | (_grow(body) & of_color)
            if body.sum() < min_area * height * width:
                continue
            others = (nearest != ground) & ~of_color
            objects.append(_measure(pixels, core, body, others, ground_rgb))
    objects.sort(key=lambda seen: -seen.area)
    return Observation(COLOR_NAMES[ground], tuple(objects))


def _measure(pixels: Pixels, core: Mask, body: Mask, others: Mask, ground_rgb: Pixels) -> SeenObject:
    """Classify an object by its mean colour and the template that overlaps it best."""
    height, width = body.shape
    rgb = pixels[core].mean(0)
    color = int(((PALETTE - rgb) ** 2).sum(-1).argmin())
    # Half of the smoothed rim belongs to the object: pixels closer to its colour than the background's.
    nearer = ((pixels - rgb) ** 2).sum(-1) < ((pixels - ground_rgb) ** 2).sum(-1)
    whole = body | (_grow(body, 2) & nearer & ~_grow(_shrink(others)))
    ys, xs = np.nonzero(whole)
    cx, cy = float(xs.mean()), float(ys.mean())
    best = (0.0, UNKNOWN)
    for shape in SHAPES:
        for scale in (0.94, 1, 1.06):
            template = _template(shape, cx, cy, whole.sum() * scale, height, width)
            overlap = float((template & whole).sum() / (template | whole).sum())
            best = max(best, (overlap, shape))
    fit, guess = best
    return SeenObject(
        color=COLOR_NAMES[color],
        shape=guess if fit > MIN_FIT else UNKNOWN,
        guess=guess,
        fit=round(fit, 3),
        cx=cx / width,
        cy=cy / height,
        area=float(whole.mean()),
        color_error=float(np.abs(PALETTE[color] - rgb).max()),
    )


def _template(shape: str, cx: float, cy: float, area: float, height: int, width: int) -> Mask:
    """The pixels of an upright shape with the given area (in pixels) and centre of mass."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = x - cx, y - cy
    if shape == "circle":
        return np.asarray(x * x + y * y <= area / np.pi)
    if shape == "square":
        return np.asarray(np.maximum(abs(x), abs(y)) <= np.sqrt(area) / 2)
    if shape == "triangle":
        r = np.sqrt(area / (3 * np.sqrt(3) / 4))
        slanted = abs(x) * np.cos(np.pi / 6) - y * 0.5 - r / 2
        return np.asarray(np.maximum(slanted, y - r / 2) <= 0)
    # A star is ten mirrored wedges: fold the plane into one, where its edge is a straight line.
    r = np.sqrt(area / (5 * STAR_INNER * np.sin(np.pi / 5)))
    angle = (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
    reach = np.hypot(x, y)
    along, across = reach * np.cos(angle), reach * abs(np.sin(angle))
    edge_x, edge_y = STAR_INNER * np.cos(np.pi / 5) - 1, STAR_INNER * np.sin(np.pi / 5)
    return np.asarray((along - r) * edge_y - across * edge_x <= 0)


def _components(mask: Mask) -> npt.NDArray[np.int64]:
    """Number the connected components of a mask (4 neighbours); 0 outside."""
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, height * width + 1).reshape(height, width), 0)
    while True:
        padded = np.pad(labels, 1)
        around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        spread = np.maximum.reduce([labels, *around]) * mask
        # A label is the number of a pixel: jump to that pixel's label to spread faster.
        jumped = spread.reshape(-1)[np.maximum(spread - 1, 0).reshape(-1)].reshape(height, width)
        spread = np.where(mask, jumped, 0)
        if (spread == labels).all():
            return labels.astype(np.int64)
        labels = spread


def _shrink(mask: Mask, times: int = 1) -> Mask:
    for _ in range(times):
        p = np.pad(mask, 1)
        mask = p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask


def _grow(mask: Mask, times: int = 1) -> Mask:
    for _ in range(times):
        p = np.pad(mask, 1)
        mask = p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return mask
