"""Every family draws through mflux's own classes, from a small checkpoint, in each way it claims.

What a random network draws is noise; that it is the same noise as mflux's is what counts
(test_pictures).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.families import FAMILIES
from tests.workers.image.families.conftest import Load
from tests.workers.image.families.jobs import LISTED, SIZE, jobs_of, pictures
from workers.engine import PromptEncoded, StepFinished

pytestmark = pytest.mark.mlx


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_family_draws_in_every_way_it_claims(load: Load, name: str) -> None:
    family = FAMILIES[name]
    painter = load(name)
    own = type(painter.engine._adapter.model).__mro__
    assert any(kind.__module__.startswith("mflux.models.") for kind in own)
    ways = jobs_of(family)
    assert ways
    for way, job in ways.items():
        events = painter.events(job)
        assert isinstance(events[0], PromptEncoded), way
        told = [event for event in events if isinstance(event, StepFinished)]
        assert [event.step for event in told] == list(range(1, job.run_steps + 1)), way
        (drawn,) = pictures(events)
        assert len(drawn) == SIZE[0] * SIZE[1] * 3, way
        assert len(set(drawn)) > 1, way
        assert pictures(painter.events(job)) == [drawn], f"{way}: the same seed"
        assert pictures(painter.events(replace(job, seed=job.seed + 1))) != [drawn], (
            f"{way}: another seed"
        )
