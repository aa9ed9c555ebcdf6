"""What bench/cold.py counts as the first token, and how it compares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.cold import Row, has_text, spread, table


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


def test_a_ratio_is_taken_within_its_round() -> None:
    row = Row("a", "picture", [2.0, 4.0, 1.0], {"standby": [1.0, 1.0, 1.0]})
    assert row.ratios("standby") == [0.5, 0.25, 1.0]
    assert spread(row.ratios("standby")) == "0.50 (0.25-1.00)"
    assert table([row]).splitlines()[-1] == (
        "| a | picture | 2.00 (1.00-4.00) | 1.00 (1.00-1.00) | 0.50 (0.25-1.00) |"
    )
