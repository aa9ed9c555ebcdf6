"""Plots: their texts, and that the same results give the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plots import labels, marks, plot
from tests.bench.samples import ratio, results


def test_a_plot_names_the_cases_and_which_side_is_better(tmp_path: Path) -> None:
    file = tmp_path / "new" / "overhead.svg"
    plot(results(ratio(0.4, 0.5, 0.6, target=0.3), ratio(1.5, case="a stream")), file)
    svg = file.read_text()
    for text in ("Whole requests", "a chat", "a stream", "ms: ours / LiteLLM   (← ours is better)"):
        assert text in svg
    plot(results(ratio(0.4, 0.5, 0.6, target=0.3), ratio(1.5, case="a stream")), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
    assert "fill: #ffffff" in svg  # readable on a dark page


def test_rows_name_their_peer_if_there_are_several() -> None:
    alone, other = ratio(1.0), ratio(1.0, peer="no proxy")
    assert labels([alone, alone]) == ["a chat", "a chat"]
    assert labels([alone, other]) == ["a chat / LiteLLM", "a chat / no proxy"]


def test_the_axis_has_few_round_marks_and_always_one() -> None:
    assert marks(0.6, 0.9) == pytest.approx([0.5, 1.0])
    assert marks(1.2, 3.0) == pytest.approx([1.0, 2.0, 5.0])
    assert marks(0.04, 0.3) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert marks(0.013, 1.0) == pytest.approx([0.01, 0.1, 1.0])
