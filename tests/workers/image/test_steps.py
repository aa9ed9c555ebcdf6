"""Previews, masks and strength, on the demo's checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from PIL import Image

from demo import world
from demo.world import Scene, Thing
from tests.workers import conftest
from tests.workers.conftest import ImageModel
from tests.workers.image.test_engine import corners, difference, is_color
from workers.engine import ImageEvent, ImageFinished, Preview, StepFinished

pytestmark = pytest.mark.mlx

PROMPT = "a red circle on a blue background"
SCENE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.3),))
# Half the side that the demo's model was trained on: a quarter of the work, nearly the same quality.
SIDE = 64
SOURCE = world.render(SCENE, SIDE)
image_job = partial(conftest.image_job, width=SIDE, height=SIDE)


def generate(flux: ImageModel, prompt: str, **fields: Any) -> Any:
    return flux.generate(prompt, **{"width": SIDE, "height": SIDE, **fields})


def previews_of(events: list[ImageEvent]) -> list[Any]:
    return [
        Image.frombytes("RGB", (event.width, event.height), event.rgb)
        for event in events
        if isinstance(event, Preview)
    ]


def last_of(events: list[ImageEvent]) -> Any:
    (final,) = (event for event in events if isinstance(event, ImageFinished))
    return Image.frombytes("RGB", (final.width, final.height), final.rgb)


class TestPreviewSchedule:
    def test_previews_are_spread_evenly_and_never_follow_the_last_step(self) -> None:
        from workers.image.steps import preview_steps

        for steps, previews, expected in (
            *((4, 0, ()), (4, 1, (2,)), (4, 2, (1, 3)), (4, 3, (1, 2, 3))),
            *((20, 3, (5, 10, 15)), (2, 3, (1,)), (1, 3, ())),
        ):
            assert preview_steps(steps, previews) == expected

    def test_a_preview_is_half_the_size_and_at_most_256_pixels(self) -> None:
        import mlx.core as mx  # noqa: TID251 - latents of that size

        from workers.image.steps import pooled, preview_factor

        for (width, height), preview in (
            ((128, 128), (64, 64)),
            ((1024, 1024), (256, 256)),
            ((1536, 1024), (256, 176)),
            ((16, 48), (8, 24)),
        ):
            factor = preview_factor(width, height)
            small = pooled(mx.zeros((1, 16, height // 8, width // 8)), factor)
            assert (small.shape[3] * 8, small.shape[2] * 8) == preview


class TestPreviews:
    def test_previews_follow_their_steps_and_do_not_change_the_image(self, flux: ImageModel) -> None:
        events = flux.events(image_job(PROMPT, previews=3))
        kinds = [type(event).__name__ for event in events]
        assert kinds == [
            "PromptEncoded",
            *["StepFinished", "Preview"] * 3,
            "StepFinished",
            "ImageFinished",
        ]
        assert [e.number for e in events if isinstance(e, Preview)] == [0, 1, 2]
        assert last_of(events).tobytes() == generate(flux, PROMPT).tobytes()

    def test_each_image_has_its_own_previews(self, flux: ImageModel) -> None:
        events = flux.events(image_job(PROMPT, previews=1, n=2))
        assert [(e.index, e.number) for e in events if isinstance(e, Preview)] == [(0, 0), (1, 0)]


@pytest.fixture(scope="module")
def previewed(flux: ImageModel) -> tuple[list[Any], Any, Any]:
    """Of eight steps: the previews after steps 2, 4 and 6; the image; mflux's own preview after step 4,
    which decodes that step's noisy latents.

    At the size that the model was trained on, where previews resemble the image.
    """
    noisy: list[Any] = []

    class Decoder:
        def call_in_loop(self, t: int, *, latents: Any, **_: Any) -> None:
            if t == 3:
                adapter = flux.engine._adapter
                noisy.append(adapter.decode(adapter.spatial(latents, 128, 128)))

    callbacks = flux.engine._adapter.callbacks
    callbacks.register(Decoder())
    try:
        events = flux.events(conftest.image_job(PROMPT, previews=3, steps=8))
    finally:
        callbacks.in_loop.pop()
    return previews_of(events), last_of(events), noisy[0]


class TestPreviewContent:
    def test_a_preview_half_way_resembles_the_image_and_not_noise(
        self, previewed: tuple[list[Any], Any, Any]
    ) -> None:
        (_, preview, _), final, noisy = previewed
        final = final.resize(preview.size)
        ours, theirs = difference(preview, final), difference(noisy.resize(preview.size), final)
        assert ours < 25
        assert ours < 0.6 * theirs

    def test_later_previews_are_closer_to_the_image(
        self, previewed: tuple[list[Any], Any, Any]
    ) -> None:
        previews, final, _ = previewed
        distances = [difference(preview, final.resize(preview.size)) for preview in previews]
        assert distances == sorted(distances, reverse=True)


class TestStrength:
    def test_more_steps_leave_less_of_the_source(self, flux: ImageModel) -> None:
        """The mean over two seeds.

        The prompt describes the source, because with another prompt the demo's model changes the
        colours at the first step.
        """
        distances = []
        for run_steps in (1, 3, 5, 8):
            images = [
                generate(flux, PROMPT, steps=8, run_steps=run_steps, source=SOURCE, seed=seed)
                for seed in (1, 2)
            ]
            distances.append(sum(difference(image, SOURCE) for image in images) / len(images))
        assert distances == sorted(distances)
        assert distances[-1] > 5 * distances[0]


class TestMask:
    def mask(self, *box: int) -> Any:
        mask = Image.new("L", SOURCE.size, 0)
        mask.paste(255, box)
        return mask

    def masked(self, flux: ImageModel, prompt: str, mask: Any, **fields: Any) -> Any:
        return generate(
            flux, prompt, source=SOURCE, mask=mask, **{"steps": 8, "run_steps": 6, **fields}
        )

    def test_the_masked_part_is_redrawn_and_the_rest_is_unchanged_bit_by_bit(
        self, flux: ImageModel
    ) -> None:
        box = (24, 24, 48, 48)
        edited = self.masked(flux, "a green circle on a blue background", self.mask(*box))
        assert is_color(edited, (28, 28, 36, 36), "green")
        outside = Image.new("RGB", (24, 24))
        for image in (edited, expected := SOURCE.copy()):
            image.paste(outside, box)
        assert edited.tobytes() == expected.tobytes()

    def test_an_empty_mask_gives_the_source_and_a_full_mask_what_no_mask_gives(
        self, flux: ImageModel
    ) -> None:
        prompt = "a green circle on a blue background"
        assert self.masked(flux, prompt, self.mask(0, 0, 0, 0)).tobytes() == SOURCE.tobytes()
        every = self.masked(flux, prompt, self.mask(0, 0, SIDE, SIDE))
        assert every.tobytes() == generate(flux, prompt, steps=8, run_steps=6, source=SOURCE).tobytes()

    def test_the_redrawn_part_fits_its_surroundings(self, flux: ImageModel) -> None:
        """Latents outside the mask are the source's at each step. Pasting at the end would leave a
        seam."""
        mask = self.mask(0, 0, SIDE // 2, SIDE)
        prompt = "a red circle on a blue background"
        edited = self.masked(flux, prompt, mask, run_steps=8)
        pasted = Image.composite(generate(flux, prompt, steps=8, seed=7), SOURCE, mask)
        assert all(is_color(edited, box, "blue") for box in corners(edited))
        assert seam(edited) < seam(pasted) or seam(edited) < 12

    def test_a_grey_mask_mixes_source_and_result(self, flux: ImageModel) -> None:
        prompt = "a green circle on a blue background"
        full = self.masked(flux, prompt, Image.new("L", SOURCE.size, 255)).getpixel((32, 32))
        half = self.masked(flux, prompt, Image.new("L", SOURCE.size, 128)).getpixel((32, 32))
        source = SOURCE.getpixel((32, 32))
        for new, old, mixed in zip(full, source, half, strict=True):
            assert abs(mixed - (new * 128 + old * 127) / 255) < 2

    def test_previews_show_the_source_outside_the_mask(self, flux: ImageModel) -> None:
        job = image_job(
            "a green circle on a blue background",
            steps=8,
            run_steps=6,
            source=SOURCE,
            mask=self.mask(24, 24, 48, 48),
            previews=2,
        )
        for preview in previews_of(flux.events(job)):
            assert (
                preview.crop((0, 0, 10, 32)).tobytes()
                == SOURCE.resize((32, 32)).crop((0, 0, 10, 32)).tobytes()
            )


def seam(image: Any) -> float:
    """The mean difference across the vertical middle line."""
    left, right = (image.crop((x, 0, x + 1, image.height)) for x in (31, 32))
    return difference(left, right)


def test_the_reported_steps_are_those_that_run(flux: ImageModel) -> None:
    events = flux.events(image_job(PROMPT, steps=8, run_steps=3, source=SOURCE))
    assert [event for event in events if isinstance(event, StepFinished)] == [
        StepFinished(0, step, 3) for step in (1, 2, 3)
    ]
