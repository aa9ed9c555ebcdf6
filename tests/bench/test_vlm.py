"""``bench.vlm``: the figures computed from the answers."""

from __future__ import annotations

import pytest

from bench.vlm import (
    CASES,
    CLIENTS,
    COMPLETION,
    FEW_CLIENTS,
    IMAGE,
    TEXT,
    Figures,
    found,
    require_whole,
)
from bench.vlm_peers import BARE, OURS, SERVER, Answer, Run

FIRST = Answer(first_s=0.5, total_s=1.0, tokens=COMPLETION, text="a")


def answered(clients: int, wall_s: float) -> Run:
    return Run(wall_s, [[FIRST]] * clients)


@pytest.fixture
def figures() -> Figures:
    """Our worker serves any number of clients in 1 s, the server in 2 s, the library one in 4 s."""
    made = Figures()
    for load, counts in CLIENTS.items():
        for clients in counts:
            made.throughput[load, OURS, clients] = [answered(clients, 1.0)] * 5
            made.throughput[load, SERVER, clients] = [answered(clients, 2.0)] * 5
        made.throughput[load, BARE, 1] = [answered(1, 4.0)] * 5
    for name, first_s in ((OURS, 1.0), (SERVER, 2.0), (BARE, 4.0)):
        made.firsts |= {(name, case): [first_s] * 5 for case in CASES}
    made.firsts[OURS, CASES[1]] = [0.05] * 5
    made.mixed = {OURS: [answered(8, 1.0)] * 5, SERVER: [answered(8, 2.0)] * 5}
    return made


def test_tokens_per_second_are_compared_with_server_and_library(figures: Figures) -> None:
    shipped = found(figures, figures).comparisons[0]
    ratios = {(ratio.case, ratio.peer): ratio for ratio in shipped.ratios}
    eight, one = ratios[f"{TEXT}, 8 clients", SERVER], ratios[f"{IMAGE}, 1 client", BARE]
    assert (eight.mine[0], eight.spread.middle, eight.target) == (8 * COMPLETION, 2.0, 1.5)
    assert (one.spread.middle, one.target) == (4.0, 1.0)


def test_targets_apply_to_the_peers_as_shipped_only(figures: Figures) -> None:
    level = Figures({key: runs for key, runs in figures.throughput.items() if key[2] in (1, 8)})
    field = found(figures, level).comparisons[1]
    assert len(field.ratios) == sum(map(len, FEW_CLIENTS.values())) + 2
    assert all(ratio.target is None for ratio in field.ratios)


def test_batching_and_the_vision_cache_have_targets(figures: Figures) -> None:
    batching, caching = found(figures, figures).figures
    assert (batching.values[0], caching.values[0]) == (8.0, 20.0)
    assert batching.met
    assert caching.met


def test_a_completion_of_another_length_ends_the_run() -> None:
    require_whole(answered(2, 1.0), OURS)
    short = Run(1.0, [[FIRST], [Answer(0.5, 1.0, COMPLETION - 1, "cut")]])
    with pytest.raises(SystemExit, match="63 tokens, not 64"):
        require_whole(short, SERVER)
