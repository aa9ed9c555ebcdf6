"""A painter gives back what it took, and takes no more than the settings say."""

from __future__ import annotations

import pytest

from contracts.families import FAMILIES
from tests.workers.conftest import Painter
from tests.workers.image.families.conftest import Load, Pictures
from tests.workers.image.families.jobs import DISTINCT, jobs_of, pictures
from workers.engine import Cancelled, ImageEvent, ImageJob, Stepped

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


@pytest.mark.parametrize("name", DISTINCT)
def test_a_cancelled_job_gives_back_what_it_took_and_the_next_is_unharmed(
    painter: Load, drawn: Pictures, name: str
) -> None:
    import mlx.core as mx  # noqa: TID251 - measures

    before, one = drawn(name), painter(name)
    jobs = jobs_of(FAMILIES[name], previews=3)
    one.do(mx.clear_cache)
    held = one.do(mx.get_active_memory)
    for job in jobs.values():
        for end in (1, 2):
            interrupt(one, job, end)
    assert one.do(mx.get_active_memory) <= held + 4096
    while one.do(one.engine.rest):  # as the model thread does between jobs
        pass
    assert one.do(mx.get_cache_memory) == 0
    assert {way: pictures(one.events(job))[0] for way, job in jobs.items()} == before


def test_the_cache_of_mlx_is_bounded_as_the_settings_say(load: Load) -> None:
    import mlx.core as mx  # noqa: TID251 - asks what is set

    painter = load("flux1-schnell", cache_limit_mb=3)
    limit = painter.do(mx.set_cache_limit, 1 << 30)
    assert limit == 3 << 20


@pytest.mark.parametrize("name", ["flux2-klein-4b", "z-image-turbo"])
def test_the_vae_works_in_strips_unless_the_settings_say_no(load: Load, name: str) -> None:
    modes = []
    for tiling in (None, True, False):
        painter = load(name, vae_tiling=tiling)
        modes.append(painter.engine._adapter.model.vae.decode_mode)
    assert modes == ["low_memory", "low_memory", "legacy"]


def test_flux1_works_in_tiles_from_a_megapixel_or_as_the_settings_say(load: Load) -> None:
    tiled = {}
    for tiling in (None, True, False):
        adapter = load("flux1-schnell", vae_tiling=tiling).engine._adapter
        for side in (512, 1024):
            adapter.tile(side * side)
            tiled[tiling, side] = adapter.model.tiling_config is not None
    assert tiled == {
        (None, 512): False,
        (None, 1024): True,
        (True, 512): True,
        (True, 1024): True,
        (False, 512): False,
        (False, 1024): False,
    }


def interrupt(painter: Painter, job: ImageJob, step: int) -> None:
    def emit(event: ImageEvent | None) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise Cancelled

    with pytest.raises(Cancelled):
        painter.do(painter.engine.run, job, emit)
