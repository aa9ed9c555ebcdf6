"""The image engine on the real demo checkpoint, judged by colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from demo import world
from demo.world import COLORS, Scene, Thing
from tests.workers.conftest import ImageModel, image_job
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
    """The share of *image* that is about the colour *name*."""
    pixels = pixels_of(image)
    color = COLORS[name]
    near = [p for p in pixels if all(abs(a - b) < 60 for a, b in zip(p, color, strict=True))]
    return len(near) / len(pixels)


def difference(a: Any, b: Any) -> float:
    left: bytes = a.tobytes()
    right: bytes = b.tobytes()
    return sum(abs(x - y) for x, y in zip(left, right, strict=True)) / len(left)


def small_image(flux: ImageModel, prompt: str, **fields: Any) -> Any:
    """A quarter of the size that the model was trained on, for tests where quality doesn't matter."""
    return flux.generate(prompt, width=64, height=64, **fields)


class TestGeneration:
    def test_the_image_shows_what_the_prompt_says(self, flux: ImageModel) -> None:
        image = flux.generate(PROMPT)
        assert image.size == (128, 128)
        assert all(is_color(image, box, "blue") for box in corners(image))
        assert 0.02 < share(image, "red") < 0.6
        assert share(image, "red") + share(image, "blue") > 0.85

    def test_the_demo_ignores_upper_case(self, flux: ImageModel) -> None:
        small, capital = (small_image(flux, prompt) for prompt in (PROMPT, PROMPT.upper()))
        assert small.tobytes() == capital.tobytes()

    def test_the_same_seed_gives_the_same_image_and_another_seed_another(
        self, flux: ImageModel
    ) -> None:
        first = small_image(flux, PROMPT, seed=0)
        assert small_image(flux, PROMPT, seed=0).tobytes() == first.tobytes()
        assert small_image(flux, PROMPT, seed=1).tobytes() != first.tobytes()

    def test_n_images_have_consecutive_seeds_that_wrap_around(self, flux: ImageModel) -> None:
        events = flux.events(image_job(PROMPT, n=2, seed=2**64 - 1, steps=1, width=64, height=64))
        images = [event for event in events if isinstance(event, ImageFinished)]
        alone = small_image(flux, PROMPT, seed=0, steps=1)
        assert [image.index for image in images] == [0, 1]
        assert images[1].rgb == alone.tobytes() != images[0].rgb

    def test_an_image_need_not_be_square(self, flux: ImageModel) -> None:
        assert flux.generate(PROMPT, width=80, height=48, steps=1).size == (80, 48)

    def test_each_step_is_reported(self, flux: ImageModel) -> None:
        events = flux.events(image_job(PROMPT, steps=3, width=64, height=64))
        assert isinstance(events[0], PromptEncoded)
        assert events[0].prompt_tokens == 8  # seven words and the end
        assert events[1:4] == [StepFinished(0, step, 3) for step in (1, 2, 3)]
        assert isinstance(events[4], ImageFinished)


class TestEditing:
    def edited(self, flux: ImageModel, prompt: str, run_steps: int) -> Any:
        return flux.generate(prompt, steps=8, run_steps=run_steps, source=SOURCE)

    def test_half_strength_recolours_the_object_in_place(self, flux: ImageModel) -> None:
        image = self.edited(flux, "a green circle on a blue background", 4)
        assert is_color(image, (52, 52, 76, 76), "green")
        assert all(is_color(image, box, "blue") for box in corners(image))

    def test_low_strength_stays_near_the_source_and_full_strength_does_not(
        self, flux: ImageModel
    ) -> None:
        little, full = (difference(self.edited(flux, PROMPT, run), SOURCE) for run in (2, 8))
        assert little < 10
        assert full > 2 * little

    def test_full_strength_ignores_the_source(self, flux: ImageModel) -> None:
        prompt = "a yellow star on a white background"
        edited = small_image(flux, prompt, steps=2, source=SOURCE.resize((64, 64)))
        assert edited.tobytes() == small_image(flux, prompt, steps=2).tobytes()


class TestCancellation:
    def interrupted(
        self, flux: ImageModel, when: Callable[[ImageEvent | None], bool]
    ) -> list[ImageEvent]:
        seen: list[ImageEvent] = []

        def emit(event: ImageEvent | None) -> None:
            if event is not None:
                seen.append(event)
            if when(event):
                raise Cancelled

        with pytest.raises(Cancelled):
            flux.do(flux.engine.run, image_job(PROMPT, width=64, height=64), emit)
        return seen

    def test_a_cancelled_job_ends_at_the_next_step_and_the_next_job_is_unaffected(
        self, flux: ImageModel
    ) -> None:
        before = small_image(flux, PROMPT)
        seen = self.interrupted(flux, lambda event: isinstance(event, StepFinished) and event.step == 2)
        assert [event for event in seen if isinstance(event, StepFinished)][-1].step == 2
        assert not any(isinstance(event, ImageFinished) for event in seen)
        assert small_image(flux, PROMPT).tobytes() == before.tobytes()

    def test_a_prompt_cancelled_at_its_first_step_can_be_repeated(self, flux: ImageModel) -> None:
        self.interrupted(flux, lambda event: isinstance(event, StepFinished))
        assert small_image(flux, PROMPT, steps=1).size == (64, 64)


def test_the_load_reports_its_phases(flux: ImageModel) -> None:
    assert flux.phases == ["importing", "loading", "warming up"]
