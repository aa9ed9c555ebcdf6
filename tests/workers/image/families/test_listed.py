"""Every family generates through mflux's own classes, from a small checkpoint, in each way it lists.

A random network generates noise. test_images checks that it is mflux's noise.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.families import FAMILIES
from tests.workers.image.families.conftest import Load
from tests.workers.image.families.jobs import LISTED, SIZE, images, jobs_of
from workers.engine import PromptEncoded, StepFinished

pytestmark = pytest.mark.mlx


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_family_generates_in_every_way_it_lists(load: Load, name: str) -> None:
    family = FAMILIES[name]
    loaded = load(name)
    own = type(loaded.engine._adapter.model).__mro__
    assert any(kind.__module__.startswith("mflux.models.") for kind in own)
    ways = jobs_of(family)
    assert ways
    for way, job in ways.items():
        events = loaded.events(job)
        assert isinstance(events[0], PromptEncoded), way
        steps = [event.step for event in events if isinstance(event, StepFinished)]
        assert steps == list(range(1, job.run_steps + 1)), way
        (image,) = images(events)
        assert len(image) == SIZE[0] * SIZE[1] * 3, way
        assert len(set(image)) > 1, way
        assert images(loaded.events(job)) == [image], f"{way}: the same seed"
        assert images(loaded.events(replace(job, seed=job.seed + 1))) != [image], f"{way}: another seed"
