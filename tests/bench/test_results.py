"""Ratios, verdicts and files from the values of rounds, without a measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.results import Better, Comparison, Figure, Spread, Stance, percentile, read, save
from tests.bench.samples import ratio, results

LESS, MORE = Better.LESS, Better.MORE


def test_a_ratio_is_computed_within_its_round() -> None:
    slowing = ratio(mine=(1.0, 2.0, 4.0), theirs=(2.0, 4.0, 8.0))
    assert slowing.rounds == (0.5, 0.5, 0.5)
    assert ratio(0.4, 0.6, 0.9).spread == Spread(0.6, 0.4, 0.9)


def test_we_are_ahead_or_behind_only_when_five_rounds_agree() -> None:
    for values, better, stance in (
        ((0.5, 0.6, 0.7, 0.8, 0.9), LESS, Stance.AHEAD),
        ((0.5, 0.6, 0.7, 0.8, 0.9), MORE, Stance.BEHIND),
        ((1.1, 1.2, 1.3, 1.4, 1.5), LESS, Stance.BEHIND),
        ((1.1, 1.2, 1.3, 1.4, 1.5), MORE, Stance.AHEAD),
        ((0.5, 0.5, 0.5, 0.5, 1.0), LESS, Stance.UNCLEAR),
        ((0.9, 2.0, 2.0, 2.0, 2.0), MORE, Stance.UNCLEAR),
        ((0.5, 0.5, 0.5, 0.5), LESS, Stance.UNCLEAR),
    ):
        assert ratio(*values, better=better).stance is stance, (values, better)


def test_a_target_is_compared_with_the_median() -> None:
    values = (0.1, 0.5, 9.0)
    for better, target, met in (
        (LESS, 0.5, True),
        (LESS, 0.4, False),
        (MORE, 0.5, True),
        (MORE, 0.6, False),
        (LESS, None, None),
    ):
        assert ratio(*values, better=better, target=target).met is met
        assert Figure("held", "MiB", better, values, target).met is met


def test_a_ratio_needs_equal_rounds_and_positive_values_of_the_peer() -> None:
    for theirs in ((), (1.0,), (1.0, 0.0)):
        with pytest.raises(ValueError, match="a chat"):
            ratio(1.0, 1.0, theirs=theirs)


def test_a_comparison_has_one_unit_and_one_direction() -> None:
    for other in (ratio(1.0, unit="s"), ratio(1.0, better=MORE)):
        with pytest.raises(ValueError, match="Whole requests"):
            Comparison("Whole requests", (ratio(1.0), other))


def test_saved_results_are_read_back_exactly(tmp_path: Path) -> None:
    made = results(ratio(0.1, 1 / 3, target=0.3), busy=0.25)
    save(made, tmp_path / "new" / "overhead.json")
    assert read(tmp_path / "new" / "overhead.json") == made


def test_a_file_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "overhead.json").write_text('{"name": "overhead"}')
    with pytest.raises(ValueError, match="machine"):
        read(tmp_path / "overhead.json")


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([1.0], 0.99) == 1.0
