"""The report of ``bench.image`` judges by the medians of its rounds, and says what it missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import image_report
from bench.image_report import Results, growth, report


def results(**changes: Any) -> Results:
    pair = {"engine": [1.0, 1.0, 1.0], "mflux": [1.0, 1.0, 1.0]}
    times: dict[str, Any] = {
        "new": pair,
        "step": {name: [0.2] * 3 for name in pair},
        "again": {"engine": [0.9] * 3, "mflux": [1.0] * 3},
        "four": pair,
        "start": {"engine": [4.0], "mflux": [4.0], "command line": [5.0]},
        "previews": [(1.2, 1.0), (1.1, 1.0)],
        "memory": [400.0] * 50,
    }
    return Results(**{**times, **changes})


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_report, "machine", lambda: "a machine")


def test_an_engine_that_is_as_fast_meets_its_targets() -> None:
    lines, met = report(results(), "128x128")
    assert met
    assert "MISSED" not in "\n".join(lines)
    assert any("5.6 (5.6 to 5.6) times what the resident" in line for line in lines)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a new prompt", {"new": {"engine": [1.03, 1.03, 0.5], "mflux": [1.0] * 3}}),
        ("a step", {"step": {"engine": [0.3] * 3, "mflux": [0.2] * 3}}),
        ("the same prompt again", {"again": {"engine": [1.1] * 3, "mflux": [1.2] * 3}}),
        ("MiB grown", {"memory": [400.0 + number for number in range(50)]}),
    ],
)
def test_what_is_missed_is_said(what: str, change: dict[str, Any]) -> None:
    lines, met = report(results(**change), "128x128")
    assert not met
    (missed,) = (line for line in lines if "MISSED" in line)
    assert what in missed


def test_other_bytes_than_mfluxs_are_a_miss() -> None:
    lines, met = report(results(same_bytes=False), "128x128")
    assert not met
    assert any("NOT the same" in line for line in lines)


def test_growth_is_counted_after_the_first_pictures() -> None:
    assert growth([300.0] * 10 + [400.0] * 40) == 0
    assert growth([400.0] * 40 + [410.0] * 10) == 10


def test_the_table_takes_the_place_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "images.md"
    docs.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    monkeypatch.setattr(image_report, "DOCS", docs)
    monkeypatch.setattr(image_report, "PLOT", tmp_path / "images.svg")
    for _ in range(2):
        image_report.write(["new"], results())
    text = docs.read_text()
    assert (text.count("new"), text.count("old")) == (1, 0)
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert (tmp_path / "images.svg").read_text().startswith("<?xml")
