"""The image engine on the real demo checkpoint, judged by colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from demo import world
from demo.world import COLORS, Scene, Thing
from tests.workers.conftest import Painter, paint
from workers.engine import Cancelled, ImageEvent, ImageFinished, PromptEncoded, StepFinished

pytestmark = pytest.mark.mlx

PROMPT = "a red circle on a blue background"
SOURCE = world.render(Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.3),)))


def pixels_of(image: Any) -> list[bytes]:
    raw = image.tobytes()
    return [raw[at : at + 3] for at in range(0, len(raw), 3)]


def mean(image: Any, box: tuple[int, int, int, int]) -> tuple[float, ...]:
    pixels = pixels_of(image.crop(box))
    return tuple(sum(channel) / len(pixels) for channel in zip(*pixels, strict=True))


def is_color(image: Any, box: tuple[int, int, int, int], name: str) -> bool:
    found = mean(image, box)
    nearest = min(
        COLORS, key=lambda c: sum((a - b) ** 2 for a, b in zip(found, COLORS[c], strict=True))
    )
    return nearest == name


def corners(image: Any) -> list[tuple[int, int, int, int]]:
    w, h = image.size
    return [(0, 0, 6, 6), (w - 6, 0, w, 6), (0, h - 6, 6, h), (w - 6, h - 6, w, h)]


def share(image: Any, name: str) -> float:
    """How much of *image* is about the colour *name*."""
    pixels = pixels_of(image)
    wanted = COLORS[name]
    near = [p for p in pixels if all(abs(a - b) < 60 for a, b in zip(p, wanted, strict=True))]
    return len(near) / len(pixels)


def difference(a: Any, b: Any) -> float:
    left: bytes = a.tobytes()
    right: bytes = b.tobytes()
    return sum(abs(x - y) for x, y in zip(left, right, strict=True)) / len(left)


def small_one(flux: Painter, prompt: str, **fields: Any) -> Any:
    """A quarter of the size that the model learned: where it doesn't matter how good it looks."""
    return flux.draw(prompt, width=64, height=64, **fields)


class TestDrawing:
    def test_a_prompt_becomes_the_picture_that_it_names(self, flux: Painter) -> None:
        image = flux.draw(PROMPT)
        assert image.size == (128, 128)
        assert all(is_color(image, box, "blue") for box in corners(image))
        assert 0.02 < share(image, "red") < 0.6
        assert share(image, "red") + share(image, "blue") > 0.85

    def test_capitals_make_no_difference_to_the_demo(self, flux: Painter) -> None:
        small, capital = (small_one(flux, prompt) for prompt in (PROMPT, PROMPT.upper()))
        assert small.tobytes() == capital.tobytes()

    def test_the_same_seed_gives_the_same_picture_and_another_another(self, flux: Painter) -> None:
        first = small_one(flux, PROMPT, seed=0)
        assert small_one(flux, PROMPT, seed=0).tobytes() == first.tobytes()
        assert small_one(flux, PROMPT, seed=1).tobytes() != first.tobytes()

    def test_n_pictures_have_seeds_one_after_another_around_the_end(self, flux: Painter) -> None:
        events = flux.events(paint(PROMPT, n=2, seed=2**64 - 1, steps=1, width=64, height=64))
        pictures = [event for event in events if isinstance(event, ImageFinished)]
        alone = small_one(flux, PROMPT, seed=0, steps=1)
        assert [picture.index for picture in pictures] == [0, 1]
        assert pictures[1].rgb == alone.tobytes() != pictures[0].rgb

    def test_a_picture_need_not_be_square(self, flux: Painter) -> None:
        assert flux.draw(PROMPT, width=80, height=48, steps=1).size == (80, 48)

    def test_each_step_is_told(self, flux: Painter) -> None:
        events = flux.events(paint(PROMPT, steps=3, width=64, height=64))
        assert isinstance(events[0], PromptEncoded)
        assert events[0].prompt_tokens == 8  # seven words and the end
        assert events[1:4] == [StepFinished(0, step, 3) for step in (1, 2, 3)]
        assert isinstance(events[4], ImageFinished)


class TestEditing:
    def edited(self, flux: Painter, prompt: str, run_steps: int) -> Any:
        return flux.draw(prompt, steps=8, run_steps=run_steps, source=SOURCE)

    def test_half_strength_recolours_the_object_in_its_place(self, flux: Painter) -> None:
        image = self.edited(flux, "a green circle on a blue background", 4)
        assert is_color(image, (52, 52, 76, 76), "green")
        assert all(is_color(image, box, "blue") for box in corners(image))

    def test_little_strength_stays_near_the_source_and_full_strength_does_not(
        self, flux: Painter
    ) -> None:
        little, full = (difference(self.edited(flux, PROMPT, run), SOURCE) for run in (2, 8))
        assert little < 10
        assert full > 2 * little

    def test_full_strength_ignores_the_source(self, flux: Painter) -> None:
        prompt = "a yellow star on a white background"
        edited = small_one(flux, prompt, steps=2, source=SOURCE.resize((64, 64)))
        assert edited.tobytes() == small_one(flux, prompt, steps=2).tobytes()


class TestLife:
    def interrupted(self, flux: Painter, when: Callable[[ImageEvent | None], bool]) -> list[ImageEvent]:
        seen: list[ImageEvent] = []

        def emit(event: ImageEvent | None) -> None:
            if event is not None:
                seen.append(event)
            if when(event):
                raise Cancelled

        with pytest.raises(Cancelled):
            flux.do(flux.engine.run, paint(PROMPT, width=64, height=64), emit)
        return seen

    def test_a_cancelled_job_ends_at_the_next_step_and_the_next_is_unharmed(
        self, flux: Painter
    ) -> None:
        before = small_one(flux, PROMPT)
        seen = self.interrupted(flux, lambda event: isinstance(event, StepFinished) and event.step == 2)
        assert [event for event in seen if isinstance(event, StepFinished)][-1].step == 2
        assert not any(isinstance(event, ImageFinished) for event in seen)
        assert small_one(flux, PROMPT).tobytes() == before.tobytes()

    def test_a_new_prompt_that_is_cancelled_at_once_can_be_asked_again(self, flux: Painter) -> None:
        self.interrupted(flux, lambda event: isinstance(event, StepFinished))
        assert small_one(flux, PROMPT, steps=1).size == (64, 64)

    def test_the_load_tells_its_phases(self, flux: Painter) -> None:
        assert flux.phases == ["importing", "loading", "warming up"]
