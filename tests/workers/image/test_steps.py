"""Previews, masks and strength: what happens from step to step, on the demo's checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from PIL import Image

from demo import world
from demo.world import Scene, Thing
from tests.workers import conftest
from tests.workers.conftest import Painter
from tests.workers.image.test_engine import corners, difference, is_color
from workers.engine import ImageEvent, ImageFinished, Preview, StepFinished

pytestmark = pytest.mark.mlx

PROMPT = "a red circle on a blue background"
SCENE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.3),))
# Half the side that the demo's model learned: a quarter of the work, and nearly as good a picture.
SIDE = 64
SOURCE = world.render(SCENE, SIDE)
paint = partial(conftest.paint, width=SIDE, height=SIDE)


def draw(flux: Painter, prompt: str, **fields: Any) -> Any:
    return flux.draw(prompt, **{"width": SIDE, "height": SIDE, **fields})


def previews_of(events: list[ImageEvent]) -> list[Any]:
    return [
        Image.frombytes("RGB", (event.width, event.height), event.rgb)
        for event in events
        if isinstance(event, Preview)
    ]


def last_of(events: list[ImageEvent]) -> Any:
    (drawn,) = (event for event in events if isinstance(event, ImageFinished))
    return Image.frombytes("RGB", (drawn.width, drawn.height), drawn.rgb)


class TestWhen:
    @pytest.mark.parametrize(
        ("steps", "previews", "shown"),
        [
            (4, 0, ()),
            (4, 1, (2,)),
            (4, 2, (1, 3)),
            (4, 3, (1, 2, 3)),
            (20, 3, (5, 10, 15)),
            (2, 3, (1,)),
            (1, 3, ()),
        ],
    )
    def test_previews_are_spread_evenly_and_never_follow_the_last_step(
        self, steps: int, previews: int, shown: tuple[int, ...]
    ) -> None:
        from workers.image.steps import preview_steps

        assert preview_steps(steps, previews) == shown

    @pytest.mark.parametrize(
        ("size", "preview"),
        [
            ((128, 128), (64, 64)),
            ((1024, 1024), (256, 256)),
            ((1536, 1024), (256, 176)),
            ((16, 48), (8, 24)),
        ],
    )
    def test_a_preview_is_half_the_size_and_at_most_256_pixels(
        self, size: tuple[int, int], preview: tuple[int, int]
    ) -> None:
        import mlx.core as mx  # noqa: TID251 - latents of that size

        from workers.image.steps import pooled, preview_factor

        width, height = size
        small = pooled(mx.zeros((1, 16, height // 8, width // 8)), preview_factor(width, height))
        assert (small.shape[3] * 8, small.shape[2] * 8) == preview


class TestPreviews:
    def test_they_come_after_their_steps_and_leave_the_picture_as_it_was(self, flux: Painter) -> None:
        events = flux.events(paint(PROMPT, previews=3))
        kinds = [type(event).__name__ for event in events]
        assert kinds == [
            "PromptEncoded",
            *["StepFinished", "Preview"] * 3,
            "StepFinished",
            "ImageFinished",
        ]
        assert [e.number for e in events if isinstance(e, Preview)] == [0, 1, 2]
        assert last_of(events).tobytes() == draw(flux, PROMPT).tobytes()

    def test_each_picture_has_its_own(self, flux: Painter) -> None:
        events = flux.events(paint(PROMPT, previews=1, n=2))
        assert [(e.index, e.number) for e in events if isinstance(e, Preview)] == [(0, 0), (1, 0)]


@pytest.fixture(scope="module")
def drawing(flux: Painter) -> tuple[list[Any], Any, Any]:
    """Of eight steps: previews after 2, 4 and 6; the picture; what mflux's own preview of 4 shows, the
    latents of that step, noise and all.

    At the side that the model learned, where a preview is of a picture and not of a guess.
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
        events = flux.events(conftest.paint(PROMPT, previews=3, steps=8))
    finally:
        callbacks.in_loop.pop()
    return previews_of(events), last_of(events), noisy[0]


class TestWhatPreviewsShow:
    def test_half_way_one_looks_like_the_picture_and_not_like_noise(
        self, drawing: tuple[list[Any], Any, Any]
    ) -> None:
        (_, preview, _), final, noisy = drawing
        final = final.resize(preview.size)
        ours, theirs = difference(preview, final), difference(noisy.resize(preview.size), final)
        assert ours < 25
        assert ours < 0.6 * theirs

    def test_they_come_nearer(self, drawing: tuple[list[Any], Any, Any]) -> None:
        previews, final, _ = drawing
        away = [difference(preview, final.resize(preview.size)) for preview in previews]
        assert away == sorted(away, reverse=True)


class TestStrength:
    def test_the_more_steps_redraw_a_picture_the_less_is_left_of_it(self, flux: Painter) -> None:
        """The mean over two seeds, at some of the eight levels that eight steps have.

        The prompt says what the picture shows already: the demo's model does what another prompt says
        at the first step, and its distance is that of the colours.
        """
        away = []
        for run_steps in (1, 3, 5, 8):
            drawn = [
                draw(flux, PROMPT, steps=8, run_steps=run_steps, source=SOURCE, seed=seed)
                for seed in (1, 2)
            ]
            away.append(sum(difference(image, SOURCE) for image in drawn) / len(drawn))
        assert away == sorted(away)
        assert away[-1] > 5 * away[0]


class TestMask:
    def mask(self, *box: int) -> Any:
        mask = Image.new("L", SOURCE.size, 0)
        mask.paste(255, box)
        return mask

    def masked(self, flux: Painter, prompt: str, mask: Any, **fields: Any) -> Any:
        return draw(flux, prompt, source=SOURCE, mask=mask, **{"steps": 8, "run_steps": 6, **fields})

    def test_what_it_covers_is_redrawn_and_the_rest_is_the_same_bit_by_bit(self, flux: Painter) -> None:
        box = (24, 24, 48, 48)
        drawn = self.masked(flux, "a green circle on a blue background", self.mask(*box))
        assert is_color(drawn, (28, 28, 36, 36), "green")
        outside = Image.new("RGB", (24, 24))
        for image in (drawn, expected := SOURCE.copy()):
            image.paste(outside, box)
        assert drawn.tobytes() == expected.tobytes()

    def test_a_mask_of_nothing_gives_the_source_and_of_everything_what_none_gives(
        self, flux: Painter
    ) -> None:
        prompt = "a green circle on a blue background"
        assert self.masked(flux, prompt, self.mask(0, 0, 0, 0)).tobytes() == SOURCE.tobytes()
        every = self.masked(flux, prompt, self.mask(0, 0, SIDE, SIDE))
        assert every.tobytes() == draw(flux, prompt, steps=8, run_steps=6, source=SOURCE).tobytes()

    def test_what_is_drawn_knows_what_is_around_it(self, flux: Painter) -> None:
        """Latents outside the mask are the source's at each step; pasting alone would leave a seam."""
        mask = self.mask(0, 0, SIDE // 2, SIDE)
        prompt = "a red circle on a blue background"
        drawn = self.masked(flux, prompt, mask, run_steps=8)
        pasted = Image.composite(draw(flux, prompt, steps=8, seed=7), SOURCE, mask)
        assert all(is_color(drawn, box, "blue") for box in corners(drawn))
        assert seam(drawn) < seam(pasted) or seam(drawn) < 12

    def test_grey_mixes_the_two(self, flux: Painter) -> None:
        prompt = "a green circle on a blue background"
        full = self.masked(flux, prompt, Image.new("L", SOURCE.size, 255)).getpixel((32, 32))
        half = self.masked(flux, prompt, Image.new("L", SOURCE.size, 128)).getpixel((32, 32))
        source = SOURCE.getpixel((32, 32))
        for new, old, mixed in zip(full, source, half, strict=True):
            assert abs(mixed - (new * 128 + old * 127) / 255) < 2

    def test_previews_keep_the_rest_too(self, flux: Painter) -> None:
        job = paint(
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
    """The mean step across the vertical middle line."""
    left, right = (image.crop((x, 0, x + 1, image.height)) for x in (31, 32))
    return difference(left, right)


def test_the_steps_that_are_told_are_those_that_are_run(flux: Painter) -> None:
    events = flux.events(paint(PROMPT, steps=8, run_steps=3, source=SOURCE))
    assert [event for event in events if isinstance(event, StepFinished)] == [
        StepFinished(0, step, 3) for step in (1, 2, 3)
    ]
