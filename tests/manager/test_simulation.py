"""The planner's guarantees over thousands of random schedules."""

from __future__ import annotations

import random

import pytest

from contracts.control import WorkerState as S
from manager.planner import Terms, WorkerView
from tests.manager.simulation import Asked, Simulation, fewest_loads, random_simulation

SCHEDULES = 2_000
CASES = 300


def test_no_schedule_starves_a_request_breaks_the_budget_or_evicts_a_busy_worker() -> None:
    for seed in range(SCHEDULES):
        simulation = random_simulation(seed)
        try:
            simulation.run()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
        # All other turns at their longest, then its own. Without turns: all earlier requests.
        longest = max(asked.seconds for asked in simulation.asked)
        max_wait_s = simulation.terms.max_wait_s
        turn = max_wait_s + longest + simulation.stop_s + simulation.load_s
        turns = len(simulation.workers) if max_wait_s else len(simulation.asked)
        assert simulation.longest_wait_s <= turn * turns + 1e-6, f"seed {seed}"


def two_models(seed: int) -> tuple[list[Asked], float]:
    """Up to eight requests for two models that exclude each other, and a ``max_wait_s``."""
    rng = random.Random(seed)
    at, asked = 0.0, []
    for _ in range(rng.randint(3, 8)):
        at += rng.expovariate(rng.choice([0.5, 1.0, 3.0]))
        asked.append(Asked(round(at, 2), rng.choice("ab"), round(rng.uniform(0.2, 4.0), 2)))
    return asked, rng.choice([2.0, 5.0, 10.0])


def loads_of(asked: list[Asked], max_wait_s: float) -> int:
    workers = {alias: WorkerView(alias, S.STOPPED, 8) for alias in "ab"}
    return Simulation(workers, Terms(12, max_wait_s), asked, load_s=1.0).run().loads


def test_the_number_of_loads_is_near_the_optimum() -> None:
    planned = possible = 0
    for seed in range(CASES):
        asked, max_wait_s = two_models(seed)
        loads = loads_of(asked, max_wait_s)
        fewest = fewest_loads(asked, load_s=1.0, max_wait_s=max_wait_s)
        assert fewest <= loads, f"seed {seed}: the optimum is none"
        planned += loads
        possible += fewest
    assert planned <= 1.5 * possible, f"{planned / possible:.2f} times the fewest loads"


@pytest.mark.parametrize(
    ("asked", "fewest"),
    [
        ([Asked(0, "a", 1), Asked(0, "a", 1)], 1),
        ([Asked(0, "a", 1), Asked(0.5, "b", 1)], 2),
        ([Asked(0, "a", 1), Asked(0.5, "b", 1), Asked(0.6, "a", 1)], 2),  # the load of a serves both
        ([Asked(0, "a", 1), Asked(1, "b", 1), Asked(60, "a", 1)], 3),  # b can't wait for the last
    ],
)
def test_the_optimum_matches_examples_solved_by_hand(asked: list[Asked], fewest: int) -> None:
    assert fewest_loads(asked, load_s=1.0, max_wait_s=10.0) == fewest
