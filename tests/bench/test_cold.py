"""What bench/cold.py counts as the first token, and how it compares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.cold import ALONE, STANDBY, TARGET, Row, found, has_text


def chunk(**delta: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (chunk(role="assistant", content=""), False),
        (chunk(content=" "), False),
        (chunk(content="a"), True),
        (chunk(content=None), False),
        (": a comment", False),
        ("data: [DONE]", False),
        ('data: {"choices": [], "usage": {}}', False),
    ],
)
def test_the_first_token_is_the_first_text(line: str, text: bool) -> None:
    assert has_text(line) is text


def test_only_a_start_with_a_standby_has_a_target() -> None:
    row = Row("a", "picture", [2.0, 4.0, 1.0], {STANDBY: [1.0, 1.0, 1.0], ALONE: [2.0, 4.0, 2.0]})
    parked, alone = (comparison.ratios for comparison in found([row]).comparisons)
    assert [(r.case, r.rounds, r.target) for r in parked] == [("a, picture", (0.5, 0.25, 1.0), TARGET)]
    assert [(r.rounds, r.target) for r in alone] == [((1.0, 1.0, 2.0), None)]
