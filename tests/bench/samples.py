"""Results made by hand, for the tests of the code that evaluates them."""

from __future__ import annotations

from typing import Any

from bench.results import Better, Comparison, Figure, Found, Ratio, Results


def ratio(*values: float, better: Better = Better.LESS, **changes: Any) -> Ratio:
    """A ratio whose rounds are *values*: the peer has 1 in every round."""
    made: dict[str, Any] = {
        "case": "a chat",
        "peer": "LiteLLM",
        "unit": "ms",
        "better": better,
        "mine": values,
        "theirs": (1.0,) * len(values),
    }
    return Ratio(**{**made, **changes})


def results(*ratios: Ratio, name: str = "overhead", **changes: Any) -> Results:
    compared = Comparison("Whole requests", ratios or (ratio(*[0.5] * 5),))
    figures = (Figure("held", "MiB", Better.LESS, (60.0, 61.0, 65.0), target=64.0),)
    made: dict[str, Any] = {
        "name": name,
        "machine": "a machine",
        "busy": 0.0,
        "rounds": 5,
        "quick": False,
        "took_s": 240.0,
        "found": Found(("LiteLLM 1.2.3",), (compared,), figures),
    }
    return Results(**{**made, **changes})
