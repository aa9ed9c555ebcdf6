"""docs/dev/performance.md is written from four complete runs, and never from quick ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import performance
from bench.benchmark import results_file
from bench.performance import BENCHMARKS, DOCUMENT, written
from testkit.document import with_section
from tests.bench.samples import results

RUNS = [results(name=name) for name in BENCHMARKS]


def test_the_document_has_a_place_for_each_part() -> None:
    text = written(DOCUMENT.read_text(), RUNS)
    for name in BENCHMARKS:
        assert f"](performance-{name}.svg)" in text
    assert text.count("| overhead: held |") == 1
    assert written(text, RUNS) == text


def test_text_written_by_hand_stays() -> None:
    text = "by hand\n<!-- a -->\nold\n<!-- end of a -->\nmore\n"
    assert with_section(text, "a", "new") == "by hand\n<!-- a -->\nnew\n<!-- end of a -->\nmore\n"
    with pytest.raises(LookupError, match="b"):
        with_section(text, "b", "new")


def test_results_of_a_quick_run_are_kept_apart() -> None:
    quick, full = (results_file("vlm", quick=quick) for quick in (True, False))
    assert quick != full


def test_an_incomplete_run_makes_no_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(performance, "results_file", lambda name, quick: tmp_path / f"{name}.json")
    before = DOCUMENT.read_text()
    assert performance.main([]) == 1
    assert "overhead.json" in capsys.readouterr().err
    assert DOCUMENT.read_text() == before
