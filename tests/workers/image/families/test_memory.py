"""A painter gives back what it took, and takes no more than the settings say."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("residency", ["fast", "lean"])
@pytest.mark.parametrize("name", DISTINCT)
def test_no_sources_are_held_while_they_are_quantized(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str, residency: str
) -> None:
    """At full size they are 8 GB beside the 2 that they become (FLUX.2 klein's text encoder)."""
    from mlx.utils import tree_flatten  # noqa: TID251 - walks what the engine read

    from workers.image.families import checkpoint
    from workers.image.families.adapter import Adapter

    sources: list[Any] = []
    held: list[int] = []
    settle = Adapter._settle

    def watched(read: Any) -> Any:
        def reading(*args: Any) -> Any:
            weights = read(*args)
            arrays = [value for _, value in tree_flatten(weights.components)]
            sources.extend(weakref.ref(one) for one in (weights, *arrays))
            return weights

        return reading

    def settling(self: Any, network: Any) -> None:
        # What is not quantized is the network's own.
        own = {id(value) for _, value in tree_flatten(network.parameters())}
        others = [getattr(self.model, part.attribute) for part in self.parts]
        own |= {id(value) for one in others if one for _, value in tree_flatten(one.parameters())}
        alive = [one for source in sources if (one := source()) is not None]
        held.append(sum(id(one) not in own for one in alive))
        del alive
        settle(self, network)

    monkeypatch.setattr(checkpoint, "read", watched(checkpoint.read))
    monkeypatch.setattr(checkpoint, "read_part", watched(checkpoint.read_part))
    monkeypatch.setattr(Adapter, "_settle", settling)
    painter = load(name, quantize=4, residency=residency)
    assert len(held) >= len(painter.engine._adapter.parts)
    assert set(held) == {0}


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


def test_flux1_works_in_tiles_where_memory_is_short_or_as_the_settings_say(load: Load) -> None:
    tiled = {}
    for tiling, memory_gb in ((None, 0.05), (None, 8), (True, 8), (False, 0.05)):
        adapter = load("flux1-schnell", vae_tiling=tiling, memory_gb=memory_gb).engine._adapter
        for size in ((512, 512), (768, 1344), (1344, 768)):
            adapter.tile(*size)
            tiled[tiling, memory_gb, size] = adapter.model.tiling_config is not None
    assert [size for (tiling, gb, size), is_tiled in tiled.items() if is_tiled and tiling is None] == [
        (768, 1344),
        (1344, 768),
    ]
    assert not tiled[None, 8, (768, 1344)]
    assert all(is_tiled for (tiling, _, _), is_tiled in tiled.items() if tiling)
    assert not any(is_tiled for (tiling, _, _), is_tiled in tiled.items() if tiling is False)


@pytest.mark.parametrize("name", ["flux1-schnell", "flux2-klein-4b", "z-image-turbo"])
def test_what_the_vae_needs_is_asked_of_its_own_layers(load: Load, name: str) -> None:
    from testkit.random_models import networks
    from workers.image.families.adapter import _full_size_channels

    assert _full_size_channels(networks(name)[0].vae) == 256  # at full size
    assert 0 < _full_size_channels(load(name).engine._adapter.model.vae) < 256


def test_weights_that_leave_memory_are_no_part_of_what_is_resident(load: Load) -> None:
    fast, lean = (
        load("flux2-klein-4b", residency=residency).engine._adapter for residency in ("fast", "lean")
    )
    assert 0 < lean.resident < fast.resident


def interrupt(painter: Painter, job: ImageJob, step: int) -> None:
    def emit(event: ImageEvent | None) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise Cancelled

    with pytest.raises(Cancelled):
        painter.do(painter.engine.run, job, emit)


def test_weights_are_quantized_in_portions(tmp_path: Path) -> None:
    """The peak is the result and a few layers' sources, not the sources of all layers."""
    import mlx.core as mx  # noqa: TID251 - measures
    import mlx.nn as nn  # noqa: TID251 - a network of its own
    from mlx.utils import tree_unflatten  # noqa: TID251

    from workers.image.families import checkpoint

    layers, source = 24, 1024 * 1024 * 2  # bytes of one layer at 16 bits
    names = [f"layers.{index}.weight" for index in range(layers)]
    file = str(tmp_path / "weights.safetensors")
    mx.save_safetensors(file, {name: mx.ones((1024, 1024), mx.bfloat16) for name in names})
    network = nn.Module()
    network.layers = [nn.Linear(1024, 1024, bias=False) for _ in range(layers)]
    loaded: Any = mx.load(file)
    network.update(tree_unflatten(list(loaded.items())))
    del loaded
    nn.quantize(network, bits=4)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    checkpoint.compute(network, portion=source // 4)
    assert mx.get_active_memory() - before > layers * source / 4
    assert mx.get_peak_memory() - before < layers * source / 3.5 + 4 * source
