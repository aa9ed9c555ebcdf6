"""The lifecycle's page and docstring agree with its table."""

from __future__ import annotations

import re
from pathlib import Path

from contracts.control import WorkerState
from manager import lifecycle
from manager.lifecycle import (
    BACKOFF_CAP_S,
    HOLDS_MEMORY,
    LEASABLE,
    STABLE_S,
    TRANSITIONS,
    Event,
    backoff,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "dev" / "lifecycle.md").read_text(
    encoding="utf-8"
)
DIAGRAM = PAGE.partition("```mermaid\n")[2].partition("```")[0]
Edge = tuple[str, str, str]  # from, event, to

TABLE: set[Edge] = {
    (str(state), str(event), str(to)) for state, row in TRANSITIONS.items() for event, to in row.items()
}


def edges_of_mermaid(text: str) -> list[Edge]:
    """Every line but the header and the arrow to the first state must be an edge."""
    header, first, *lines = [line.strip() for line in text.strip().splitlines()]
    assert (header, first) == ("stateDiagram-v2", "[*] --> stopped")
    found = [re.fullmatch(r"(\w+) --> (\w+): (\w+)", line) for line in lines]
    assert all(found), [line for line, edge in zip(lines, found, strict=True) if not edge]
    return [(edge[1], edge[3], edge[2]) for edge in found if edge]


def edges_of_docstring(text: str) -> list[Edge]:
    """Arrows that begin a line have their state before them; those in the right column, above."""
    states = "|".join(WorkerState)
    edges, before = [], ""
    for line in text.splitlines():
        arrows = re.findall(rf"(?:({states}) +)?--(\w+)--> +(\w+)", line)
        for state, event, to in arrows:
            before = state or before
            edges.append((before, event, to))
    return edges


def differences(edges: list[Edge]) -> dict[str, list[Edge]]:
    return {
        "missing in the text": sorted(TABLE - set(edges)),
        "not in the table": sorted(set(edges) - TABLE),
        "there twice": sorted({edge for edge in edges if edges.count(edge) > 1}),
    }


NONE: dict[str, list[Edge]] = {"missing in the text": [], "not in the table": [], "there twice": []}


def test_the_diagram_is_the_table() -> None:
    assert differences(edges_of_mermaid(DIAGRAM)) == NONE


def test_the_docstring_is_the_table() -> None:
    assert differences(edges_of_docstring(lifecycle.__doc__ or "")) == NONE


def test_missing_and_unknown_edges_are_reported() -> None:
    changed = DIAGRAM.replace("stopped --> starting: start", "stopped --> ready: start")
    assert differences(edges_of_mermaid(changed)) == {
        "missing in the text": [("stopped", "start", "starting")],
        "not in the table": [("stopped", "start", "ready")],
        "there twice": [],
    }


def rows(heading: str) -> dict[str, list[str]]:
    """The table under *heading*, by its first column."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first.strip("`"): others for first, *others in cells}


def test_every_state_is_documented_with_memory_and_requests() -> None:
    states = rows("States")
    assert set(states) == set(WorkerState)
    assert {state for state, (_, memory, _) in states.items() if memory == "yes"} == HOLDS_MEMORY
    assert {state for state, (_, _, requests) in states.items() if requests == "yes"} == LEASABLE


def test_every_event_is_documented() -> None:
    assert set(rows("Events")) == set(Event)


def test_the_backoff_is_as_documented() -> None:
    section = PAGE.partition("## Backoff\n")[2]
    seconds = [int(number) for number in re.findall(r"\d+", section)]
    assert seconds == [backoff(n) for n in range(1, 7)] + [BACKOFF_CAP_S, STABLE_S]
    assert backoff(7) == BACKOFF_CAP_S
