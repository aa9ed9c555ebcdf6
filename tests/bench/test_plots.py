"""Plots: what they say, and that the same results make the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plots import labels, marks, plot
from tests.bench.made import ratio, results


def test_a_plot_names_what_is_compared_and_which_side_is_better(tmp_path: Path) -> None:
    file = tmp_path / "new" / "overhead.svg"
    plot(results(ratio(0.4, 0.5, 0.6, target=0.3), ratio(1.5, case="a stream")), file)
    drawn = file.read_text()
    for text in ("Whole requests", "a chat", "a stream", "ms: ours / LiteLLM   (← ours is better)"):
        assert text in drawn
    plot(results(ratio(0.4, 0.5, 0.6, target=0.3), ratio(1.5, case="a stream")), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn


def test_a_plot_has_a_ground_of_its_own_for_dark_pages(tmp_path: Path) -> None:
    plot(results(), tmp_path / "overhead.svg")
    assert "fill: #ffffff" in (tmp_path / "overhead.svg").read_text()


def test_rows_name_their_peer_where_there_are_several() -> None:
    alone, other = ratio(1.0), ratio(1.0, peer="no proxy")
    assert labels([alone, alone]) == ["a chat", "a chat"]
    assert labels([alone, other]) == ["a chat / LiteLLM", "a chat / no proxy"]


@pytest.mark.parametrize(
    ("low", "high", "at"),
    [
        (0.6, 0.9, [0.5, 1.0]),
        (1.2, 3.0, [1.0, 2.0, 5.0]),
        (0.04, 0.3, [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
        (0.013, 1.0, [0.01, 0.1, 1.0]),
    ],
)
def test_the_axis_has_few_round_marks_and_always_one(low: float, high: float, at: list[float]) -> None:
    assert marks(low, high) == pytest.approx(at)
