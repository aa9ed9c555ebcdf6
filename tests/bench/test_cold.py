"""bench/cold.py: which event counts as the first token, and the comparisons."""

from __future__ import annotations

import json
from typing import Any

from bench.cold import ALONE, STANDBY, TARGET, Row, found, has_text


def chunk(**delta: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}"


def test_the_first_token_is_the_first_text() -> None:
    without_text = (
        chunk(role="assistant", content=""),
        chunk(content=" "),
        chunk(content=None),
        ": a comment",
        "data: [DONE]",
        'data: {"choices": [], "usage": {}}',
    )
    assert has_text(chunk(content="a"))
    assert [line for line in without_text if has_text(line)] == []


def test_only_a_start_with_a_standby_worker_has_a_target() -> None:
    row = Row("a", "image", [2.0, 4.0, 1.0], {STANDBY: [1.0, 1.0, 1.0], ALONE: [2.0, 4.0, 2.0]})
    standby, alone = (comparison.ratios for comparison in found([row]).comparisons)
    assert [(r.case, r.rounds, r.target) for r in standby] == [("a, image", (0.5, 0.25, 1.0), TARGET)]
    assert [(r.rounds, r.target) for r in alone] == [((1.0, 1.0, 2.0), None)]
