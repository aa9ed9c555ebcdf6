"""``make grade``: grade the demo models through the whole stack, over HTTP, on held-out scenes.

Every image, prompt and true answer is made by ``demo.world`` with a fixed seed. Answers are compared
character by character, generated images by ``demo.judge``. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
from PIL import Image

from demo import world
from demo.judge import caption_agrees, check
from demo.world import Scene
from hostctl.local_stack import CannotStart, LocalStack, config_of, interrupted_by_signals

SEED = 20_26
MOVED = 0.06  # of the side; an object farther off than this has moved
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``target``: the share that must be right, or None."""

    model: str
    what: str
    right: int
    count: int
    seconds: float
    target: float | None

    @property
    def passed(self) -> bool:
        return self.target is None or self.right >= self.target * self.count


class Grader:
    def __init__(self, client: httpx.Client, watch: Callable[[str], None]) -> None:
        self._client = client
        self._watch = watch

    def rows(self, n_text: int, n_fast: int, n_generated: int, n_edited: int) -> Iterator[Row]:
        shapes = held_out(random.Random(SEED), n_text)
        words = [world.random_scene(random.Random(f"{SEED}-{i}"), "word") for i in range(n_text)]
        for task in ("caption", "objects"):
            yield self._analyzed("vlm-best", task, shapes, 0.95)
        for task in ("describe", "analyze"):
            yield self._analyzed("vlm-best", task, shapes, None)
        yield self._analyzed("vlm-best", "ocr", words, 0.95)
        yield self._asked(
            "vlm-best", "Korean", shapes, lambda s: (world.TASKS["korean"].prompts[0], world.korean(s))
        )
        rng = random.Random(SEED)
        yield self._asked("vlm-best", "questions", shapes, lambda s: world.question(rng, s))
        yield self._analyzed("vlm-fast", "caption", shapes[:n_fast], 0.9)
        yield from self._generated(held_out(random.Random(SEED + 1), n_generated))
        yield from self._edited(list(recolourings(random.Random(SEED + 2), n_edited)))

    def _analyzed(self, model: str, task: str, scenes: list[Scene], target: float | None) -> Row:
        truth = world.TASKS[task].answer

        def right(scene: Scene) -> bool:
            body = {"model": model, "image": encoded(world.render(scene)), "task": task}
            return bool(self._post("/v1/vision/analyze", body)["result"] == truth(scene))

        return self._row(model, task, scenes, right, target)

    def _asked(
        self, model: str, what: str, scenes: list[Scene], asks: Callable[[Scene], tuple[str, str]]
    ) -> Row:
        def right(scene: Scene) -> bool:
            text, truth = asks(scene)
            url = f"data:image/png;base64,{encoded(world.render(scene))}"
            parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
            body = {"model": model, "messages": [{"role": "user", "content": parts}], "temperature": 0}
            answer = self._post("/v1/chat/completions", body)
            return bool(answer["choices"][0]["message"]["content"] == truth)

        return self._row(model, what, scenes, right, None)

    def _generated(self, scenes: list[Scene]) -> Iterator[Row]:
        images: list[Image.Image] = []

        def image_right(scene: Scene) -> bool:
            seed = len(images)
            body = {"prompt": world.caption(scene), "seed": seed, "size": "128x128", "steps": 4}
            answer = self._post("/v1/images/generations", body)
            images.append(Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))))
            return check(images[-1], scene).right

        yield self._row("image-gen", "generated: colour, shape, place", scenes, image_right, 0.95)
        by_scene = iter(list(images))

        def caption_right(scene: Scene) -> bool:
            body = {"model": "vlm-best", "image": encoded(next(by_scene)), "task": "caption"}
            return caption_agrees(self._post("/v1/vision/analyze", body)["result"], scene)

        yield self._row("both", "round trip: text, image, text", scenes, caption_right, 0.9)

    def _edited(self, changes: list[tuple[Scene, Scene]]) -> Iterator[Row]:
        """Strength 0.5 recolours an object in its place; a mask keeps every pixel outside."""

        def edited(change: tuple[Scene, Scene], **fields: Any) -> Image.Image:
            before, after = change
            body = {"prompt": world.caption(after), "image": encoded(world.render(before)), "seed": 1}
            answer = self._post("/v1/images/edits", {**body, "strength": 0.5, **fields})
            return Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))

        def recoloured(change: tuple[Scene, Scene]) -> bool:
            return is_recoloured(edited(change), change[1])

        def kept(change: tuple[Scene, Scene]) -> bool:
            source, box = world.render(change[0]), around(change[0])
            mask = Image.new("L", source.size, 0)
            mask.paste(255, box)
            image = edited(change, mask=encoded(mask))
            return is_recoloured(image, change[1]) and same_outside(image, source, box)

        yield self._row("image-gen", "edited: the colour, in place", changes, recoloured, 0.95)
        yield self._row("image-gen", "masked: the rest is kept", changes, kept, 0.95)

    def _row(
        self,
        model: str,
        what: str,
        scenes: list[T],
        is_right: Callable[[T], bool],
        target: float | None,
    ) -> Row:
        began, right = time.monotonic(), 0
        for i, scene in enumerate(scenes):
            self._watch(f"{model}: {what}, {i + 1} of {len(scenes)}")
            right += is_right(scene)
        self._watch("")
        return Row(model, what, right, len(scenes), (time.monotonic() - began) / len(scenes), target)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=body)
        if answer.status_code != 200:
            raise SystemExit(f"grade: {path}: {answer.status_code}: {answer.text[:500]}")
        return answer.json()


def held_out(rng: random.Random, count: int) -> list[Scene]:
    """Scenes of one or two objects in combinations that were held out of training."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = world.random_scene(rng, rng.choice(["one", "two"]))
        if world.is_held_out(scene):
            scenes.append(scene)
    return scenes


def recolourings(rng: random.Random, count: int) -> Iterator[tuple[Scene, Scene]]:
    """Scenes of one object, and the same with the object in another colour; both held out."""
    while count:
        before = world.random_scene(rng, "one")
        (thing,) = before.things
        color = rng.choice([c for c in world.COLORS if c not in (thing.color, before.background)])
        after = replace(before, things=(replace(thing, color=color),))
        if world.is_held_out(before) and world.is_held_out(after):
            count -= 1
            yield before, after


def is_recoloured(image: Image.Image, goal: Scene) -> bool:
    """Does *image* show *goal*, a scene of one object, with the object in its place?"""
    seen, (thing,) = check(image, goal), goal.things
    if not seen.right:
        return False
    (found,) = seen.observed.objects
    return abs(found.cx - thing.cx) < MOVED and abs(found.cy - thing.cy) < MOVED


def around(scene: Scene) -> tuple[int, int, int, int]:
    """The box around the one object of *scene*, in pixels: left, top, right, bottom."""
    (thing,) = scene.things
    size = world.render(scene).width
    reach = thing.r * 1.15
    edges = (thing.cx - reach, thing.cy - reach, thing.cx + reach, thing.cy + reach)
    left, top, right, bottom = (min(max(round(edge * size), 0), size) for edge in edges)
    return left, top, right, bottom


def same_outside(image: Image.Image, source: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Are all pixels outside *box* equal, bit by bit?"""
    blank = Image.new("RGB", (box[2] - box[0], box[3] - box[1]))
    both = [one.convert("RGB") for one in (image, source)]
    for one in both:
        one.paste(blank, box)
    return bool(both[0].tobytes() == both[1].tobytes())


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def line(row: Row) -> str:
    target = "" if row.target is None else f"{row.target:.0%}"
    verdict = "" if row.passed else "  BELOW TARGET"
    share = f"{row.right}/{row.count}"
    figures = f"{share:>9} {row.right / row.count:7.1%} {target:>6} {row.seconds:7.2f} s"
    return f"{row.model:10} {row.what:32} {figures}{verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make grade", description=__doc__)
    parser.add_argument("--text", type=int, default=100, help="scenes per task of vlm-best")
    parser.add_argument("--fast", type=int, default=10, help="scenes for vlm-fast (about 4 s each)")
    parser.add_argument("--generated", type=int, default=100, help="images to generate")
    parser.add_argument("--edited", type=int, default=25, help="images to edit, each twice")
    args = parser.parse_args()
    interrupted_by_signals()
    try:
        with LocalStack(config_of(os.environ, "config.demo.yaml"), os.environ) as stack:
            stack.wait_until_ready()
            return report(stack, args.text, args.fast, args.generated, args.edited)
    except CannotStart as exc:
        print(f"grade: {exc}", file=sys.stderr)
        return 1


def report(stack: LocalStack, *counts: int) -> int:
    def watch(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    print(f"{'model':10} {'what':32} {'right':>9} {'':7} {'target':>6} {'each':>9}")
    failed = 0
    with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=300) as client:
        for row in Grader(client, watch).rows(*counts):
            print(line(row), flush=True)
            failed += not row.passed
    print("all targets are met" if not failed else f"{failed} targets are missed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
