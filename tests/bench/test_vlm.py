"""What ``bench.vlm`` makes of the answers."""

from __future__ import annotations

import pytest

from bench.vlm import ANSWER, CASES, CLIENTS, FEW_CLIENTS, PICTURE, TEXT, Figures, found, whole
from bench.vlm_peers import BARE, OURS, SERVER, Answer, Run

FIRST = Answer(first_s=0.5, total_s=1.0, tokens=ANSWER, text="a")


def answered(clients: int, wall_s: float) -> Run:
    return Run(wall_s, [[FIRST]] * clients)


@pytest.fixture
def figures() -> Figures:
    """Ours serve any number in 1 s, the server in 2 s; the library one client in 4 s."""
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


def test_tokens_per_second_stand_beside_server_and_library(figures: Figures) -> None:
    shipped = found(figures, figures).comparisons[0]
    told = {(ratio.case, ratio.peer): ratio for ratio in shipped.ratios}
    eight, one = told[f"{TEXT}, 8 clients", SERVER], told[f"{PICTURE}, 1 client", BARE]
    assert (eight.mine[0], eight.spread.middle, eight.target) == (8 * ANSWER, 2.0, 1.5)
    assert (one.spread.middle, one.target) == (4.0, 1.0)


def test_targets_are_for_what_users_have_and_not_for_the_level_field(figures: Figures) -> None:
    level = Figures({key: runs for key, runs in figures.throughput.items() if key[2] in (1, 8)})
    field = found(figures, level).comparisons[1]
    assert len(field.ratios) == sum(map(len, FEW_CLIENTS.values())) + 2
    assert all(ratio.target is None for ratio in field.ratios)


def test_a_picture_that_was_seen_must_be_ten_times_sooner(figures: Figures) -> None:
    grown, sooner = found(figures, figures).figures
    assert (grown.values[0], sooner.values[0]) == (8.0, 20.0)
    assert grown.met
    assert sooner.met


def test_an_answer_of_another_length_ends_the_run() -> None:
    whole(answered(2, 1.0), OURS)
    short = Run(1.0, [[FIRST], [Answer(0.5, 1.0, ANSWER - 1, "cut")]])
    with pytest.raises(SystemExit, match="63 tokens, not 64"):
        whole(short, SERVER)
