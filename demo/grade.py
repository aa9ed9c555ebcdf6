"""``make grade``: judge the demo models through the whole stack, over HTTP, on scenes never trained on.

Every picture, prompt and true answer comes from ``demo.world`` with a fixed seed; answers are compared
letter for letter, drawings by ``demo.judge``. Status 1 when a mark below is missed.
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
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from demo import world
from demo.judge import caption_agrees, check
from demo.world import Scene
from scripts.local_stack import CannotStart, LocalStack, config_of, interrupted_by_signals

SEED = 20_26


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``mark``: the share that must be right, None where none is set."""

    model: str
    what: str
    right: int
    count: int
    seconds: float
    mark: float | None

    @property
    def passed(self) -> bool:
        return self.mark is None or self.right >= self.mark * self.count


class Grader:
    def __init__(self, client: httpx.Client, watch: Callable[[str], None]) -> None:
        self._client = client
        self._watch = watch

    def rows(self, n_text: int, n_fast: int, n_drawn: int) -> Iterator[Row]:
        shapes = held_out(random.Random(SEED), n_text)
        words = [world.random_scene(random.Random(f"{SEED}-{i}"), "word") for i in range(n_text)]
        for task, mark in (("caption", 0.95), ("objects", 0.95), ("describe", None), ("analyze", None)):
            yield self._analyzed("vlm-best", task, shapes, mark)
        yield self._analyzed("vlm-best", "ocr", words, 0.95)
        yield self._asked(
            "vlm-best", "Korean", shapes, lambda s: (world.TASKS["korean"].prompts[0], world.korean(s))
        )
        rng = random.Random(SEED)
        yield self._asked("vlm-best", "questions", shapes, lambda s: world.question(rng, s))
        yield self._analyzed("vlm-fast", "caption", shapes[:n_fast], 0.9)
        yield from self._drawn(held_out(random.Random(SEED + 1), n_drawn))

    def _analyzed(self, model: str, task: str, scenes: list[Scene], mark: float | None) -> Row:
        truth = world.TASKS[task].answer

        def right(scene: Scene) -> bool:
            body = {"model": model, "image": encoded(world.render(scene)), "task": task}
            return bool(self._post("/v1/vision/analyze", body)["result"] == truth(scene))

        return self._row(model, task, scenes, right, mark)

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

    def _drawn(self, scenes: list[Scene]) -> Iterator[Row]:
        pictures: list[Image.Image] = []

        def drawn_right(scene: Scene) -> bool:
            seed = len(pictures)
            body = {"prompt": world.caption(scene), "seed": seed, "size": "128x128", "steps": 4}
            answer = self._post("/v1/images/generations", body)
            pictures.append(Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))))
            return check(pictures[-1], scene).right

        yield self._row("image-gen", "drawn: colours, shapes, place", scenes, drawn_right, 0.95)
        by_scene = iter(list(pictures))

        def told_right(scene: Scene) -> bool:
            body = {"model": "vlm-best", "image": encoded(next(by_scene)), "task": "caption"}
            return caption_agrees(self._post("/v1/vision/analyze", body)["result"], scene)

        yield self._row("both", "round trip: text, picture, text", scenes, told_right, 0.9)

    def _row(
        self,
        model: str,
        what: str,
        scenes: list[Scene],
        is_right: Callable[[Scene], bool],
        mark: float | None,
    ) -> Row:
        began, right = time.monotonic(), 0
        for i, scene in enumerate(scenes):
            self._watch(f"{model}: {what}, {i + 1} of {len(scenes)}")
            right += is_right(scene)
        self._watch("")
        return Row(model, what, right, len(scenes), (time.monotonic() - began) / len(scenes), mark)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=body)
        if answer.status_code != 200:
            raise SystemExit(f"grade: {path}: {answer.status_code}: {answer.text[:500]}")
        return answer.json()


def held_out(rng: random.Random, count: int) -> list[Scene]:
    """Scenes of one or two things whose combination was never trained on."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = world.random_scene(rng, rng.choice(["one", "two"]))
        if world.is_held_out(scene):
            scenes.append(scene)
    return scenes


def encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def line(row: Row) -> str:
    mark = "" if row.mark is None else f"{row.mark:.0%}"
    verdict = "" if row.passed else "  BELOW THE MARK"
    share = f"{row.right}/{row.count}"
    figures = f"{share:>9} {row.right / row.count:7.1%} {mark:>6} {row.seconds:7.2f} s"
    return f"{row.model:10} {row.what:32} {figures}{verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make grade", description=__doc__)
    parser.add_argument("--text", type=int, default=100, help="scenes for each task of vlm-best")
    parser.add_argument("--fast", type=int, default=10, help="scenes for vlm-fast (about 4 s each)")
    parser.add_argument("--drawn", type=int, default=50, help="pictures to draw")
    args = parser.parse_args()
    interrupted_by_signals()
    try:
        with LocalStack(config_of(os.environ, "config.demo.yaml"), os.environ) as stack:
            stack.wait_until_ready()
            return report(stack, args.text, args.fast, args.drawn)
    except CannotStart as exc:
        print(f"grade: {exc}", file=sys.stderr)
        return 1


def report(stack: LocalStack, n_text: int, n_fast: int, n_drawn: int) -> int:
    def watch(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    print(f"{'model':10} {'what':32} {'right':>9} {'':7} {'mark':>6} {'each':>9}")
    failed = 0
    with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=300) as client:
        for row in Grader(client, watch).rows(n_text, n_fast, n_drawn):
            print(line(row), flush=True)
            failed += not row.passed
    print("all marks are met" if not failed else f"{failed} marks are missed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
