"""``bench.image``: its verdicts on the measured times, and when it refuses to compare."""

from __future__ import annotations

from typing import Any

import pytest

from bench.image import Measured, found, growth, same_bytes
from bench.image_peers import CLI, ENGINE, MFLUX


def measured(**changes: Any) -> Measured:
    pair = {ENGINE: [1.0] * 5, MFLUX: [1.0] * 5}
    times: dict[str, Any] = {
        "new": pair,
        "step": {name: [0.2] * 5 for name in pair},
        "again": {ENGINE: [0.9] * 5, MFLUX: [1.0] * 5},
        "four": pair,
        "start": {ENGINE: [4.0] * 5, MFLUX: [4.0] * 5, CLI: [4.5] * 5},
        "previews": [1.2, 1.1],
        "memory": [400.0] * 50,
    }
    return Measured(**{**times, **changes})


def missed(made: Measured) -> list[str]:
    result = found(made)
    ratios = [ratio for comparison in result.comparisons for ratio in comparison.ratios]
    return [r.case for r in ratios if r.met is False] + [
        f.what for f in result.figures if f.met is False
    ]


def test_an_engine_that_is_as_fast_meets_its_targets() -> None:
    assert missed(measured()) == []


def test_each_missed_target_is_reported() -> None:
    ones = [1.0] * 5
    changes: dict[str, dict[str, Any]] = {
        "an image, new prompt": {"new": {ENGINE: [1.03, 1.03, 0.5, 1.03, 2.0], MFLUX: ones}},
        "a step": {"step": {ENGINE: [0.3] * 5, MFLUX: [0.2] * 5}},
        "a repeated prompt, mflux with a new one": {
            "again": {ENGINE: [1.1] * 5, MFLUX: [1.2] * 5},
        },
        "ours loaded already": {"start": {ENGINE: ones, MFLUX: ones, CLI: [0.8] * 5}},
        "memory growth after 50 images": {"memory": [400.0 + number for number in range(50)]},
    }
    assert {case: missed(measured(**change)) for case, change in changes.items()} == {
        case: [case] for case in changes
    }


def test_the_loaded_engine_is_compared_with_the_command_line() -> None:
    resident = found(measured()).comparisons[1].ratios[-1]
    assert resident.peer == CLI
    assert resident.spread.middle == pytest.approx(0.2)


def test_bytes_that_differ_from_mfluxs_end_the_run() -> None:
    same_bytes({ENGINE: [b"a"], MFLUX: [b"a"]})
    with pytest.raises(SystemExit, match="same bytes"):
        same_bytes({ENGINE: [b"a"], MFLUX: [b"b"]})


def test_growth_is_counted_after_the_first_images() -> None:
    assert growth([300.0] * 10 + [400.0] * 40) == 0
    assert growth([400.0] * 40 + [410.0] * 10) == 10
