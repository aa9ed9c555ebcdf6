"""The planner by examples: each branch of ``plan``, and the fairness of ``schedule``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from contracts.control import WorkerState as S
from manager.planner import (
    Plan,
    Refuse,
    Serve,
    Start,
    Terms,
    Wait,
    Waiting,
    Why,
    WorkerView,
    plan,
    schedule,
)


def view(alias: str, state: S = S.READY, charge: int = 4, **kw: Any) -> WorkerView:
    return WorkerView(alias, state, charge, **kw)


def ask(target: WorkerView, *others: WorkerView, budget: int = 12, now: float = 100.0) -> Plan:
    workers = {w.alias: w for w in (target, *others)}
    return plan(Waiting(target.alias, now), workers, Terms(budget), now)


def line_up(waiting: str, *workers: WorkerView, budget: int = 12, now: float = 100.0) -> list[Plan]:
    line = [Waiting(alias, now) for alias in waiting.split()]
    return schedule(line, {w.alias: w for w in workers}, Terms(budget), now)


# --- plan ----------------------------------------------------------------------------------------


def test_a_request_for_a_ready_worker_is_served() -> None:
    assert ask(view("a")) == Serve()


@pytest.mark.parametrize("state", [S.STARTING, S.DRAINING, S.STOPPING])
def test_a_request_waits_for_a_worker_that_starts_or_leaves(state: S) -> None:
    assert ask(view("a", state)) == Wait(f"a is {state}")


def test_a_model_larger_than_the_budget_is_refused() -> None:
    assert ask(view("a", S.STOPPED, 13)) == Refuse(Why.TOO_LARGE)


def test_a_model_as_large_as_the_budget_is_started() -> None:
    assert ask(view("a", S.STOPPED, 12)) == Start(12)


def test_a_failed_load_is_refused_until_its_backoff_has_passed() -> None:
    failed = view("a", S.FAILED, retry_at=101.0, load_failed=True)
    assert ask(failed, now=100.9) == Refuse(Why.LOAD_FAILED, retry_at=101.0)
    assert ask(failed, now=101.0) == Start(4)


def test_after_a_crash_a_request_waits_for_the_backoff() -> None:
    crashed = view("a", S.FAILED, retry_at=101.0)
    assert ask(crashed, now=100.9) == Wait("a crashed", until=101.0)
    assert ask(crashed, now=101.0) == Start(4)


def test_a_request_blocked_by_pinned_workers_only_is_refused_at_once() -> None:
    pinned = [view("c", charge=4, pinned=True), view("b", charge=1, pinned=True)]
    assert ask(view("a", S.STOPPED, 8), *pinned) == Refuse(Why.PINNED, by=("b", "c"))


def test_a_model_that_will_fit_with_the_pinned_workers_waits() -> None:
    pinned, busy = view("b", charge=4, pinned=True), view("c", charge=4, leases=1)
    assert ask(view("a", S.STOPPED, 8), pinned, busy) == Wait("a waits for memory", 8, ("c",))


@pytest.mark.parametrize("state", [S.DRAINING, S.STOPPING])
def test_a_pinned_worker_that_is_being_stopped_does_not_refuse_a_request(state: S) -> None:
    leaving = view("b", state, 8, pinned=True)
    assert not isinstance(ask(view("a", S.STOPPED, 8), leaving), Refuse)


def test_enough_free_memory_evicts_nothing() -> None:
    assert ask(view("a", S.STOPPED), view("b")) == Start(4)


@pytest.mark.parametrize("state", [S.STOPPED, S.FAILED])
def test_a_worker_without_a_process_takes_no_memory(state: S) -> None:
    assert ask(view("a", S.STOPPED, 12), view("b", state, 12, retry_at=999.0)) == Start(12)


@pytest.mark.parametrize("state", [S.STARTING, S.DRAINING])
def test_a_starting_or_draining_worker_keeps_its_memory(state: S) -> None:
    waits = ask(view("a", S.STOPPED, 8), view("b", state, 8))
    assert waits == Wait("a waits for memory", memory=8)


def test_memory_of_stopping_workers_counts_as_free_and_nothing_is_evicted_for_it() -> None:
    leaving, idle = view("b", S.STOPPING, charge=8), view("c", charge=8)
    assert ask(view("a", S.STOPPED, 8), leaving, idle, budget=16) == Start(8)


def test_the_least_recently_used_worker_is_evicted_first() -> None:
    newer, older = view("b", charge=6, last_used=9), view("c", charge=6, last_used=3)
    assert ask(view("a", S.STOPPED, 6), newer, older) == Start(6, ("c",))


def test_a_victim_whose_memory_is_not_needed_is_spared() -> None:
    small, large = view("b", charge=2, last_used=1), view("c", charge=8, last_used=2)
    assert ask(view("a", S.STOPPED, 8), small, large, budget=10) == Start(8, ("c",))


def test_a_busy_worker_is_never_evicted_and_is_held_for_its_turn_to_end() -> None:
    busy = view("b", charge=8, leases=1)
    assert ask(view("a", S.STOPPED, 8), busy) == Wait("a waits for memory", 8, ("b",))


def test_the_longest_busy_worker_is_held_and_no_more_than_needed() -> None:
    busy = [view(alias, charge=4, leases=1, busy_since=since) for alias, since in (("b", 9), ("c", 3))]
    assert ask(view("a", S.STOPPED, 8), *busy) == Wait("a waits for memory", 8, ("c",))


def test_no_worker_is_held_when_that_would_not_free_enough() -> None:
    busy, loading = view("b", charge=4, leases=1), view("c", S.STARTING, 8)
    assert ask(view("a", S.STOPPED, 12), busy, loading) == Wait("a waits for memory", memory=12)


# --- schedule ------------------------------------------------------------------------------------


def test_without_requests_there_are_no_plans() -> None:
    assert line_up("", view("a")) == []


def test_all_requests_of_a_ready_worker_are_served() -> None:
    assert line_up("a a a", view("a")) == [Serve()] * 3


def test_many_requests_for_one_model_are_one_start() -> None:
    assert line_up("a a a", view("a", S.STOPPED)) == [
        Start(4),
        *[Wait("an earlier request waits for a")] * 2,
    ]


def test_a_refusal_applies_to_all_requests_for_the_alias() -> None:
    assert line_up("a a", view("a", S.STOPPED, 99)) == [Refuse(Why.TOO_LARGE)] * 2


def test_a_ready_worker_is_served_while_another_loads() -> None:
    assert line_up("a b", view("a", S.STOPPED), view("b")) == [Start(4), Serve()]


def test_a_worker_that_a_request_has_just_been_granted_is_not_evicted_for_the_next() -> None:
    plans = line_up("b a", view("a", S.STOPPED, 8), view("b", charge=8))
    assert plans == [Serve(), Wait("a waits for memory", 8, ("b",))]


def test_a_later_request_does_not_overtake_one_that_waits_for_its_worker_s_memory() -> None:
    plans = line_up("a b", view("a", S.STOPPED, 8), view("b", charge=8, leases=1))
    assert plans == [Wait("a waits for memory", 8, ("b",)), Wait("b must leave for an earlier request")]


def test_a_worker_that_need_not_leave_is_served_while_another_waits_for_memory() -> None:
    workers = [
        view("a", S.STOPPED, 8),
        view("b", charge=8, leases=1, busy_since=1),
        view("c", charge=4, leases=1, busy_since=2),
    ]
    assert line_up("a c", *workers) == [Wait("a waits for memory", 8, ("b",)), Serve()]


def test_an_idle_worker_that_must_leave_too_is_held_as_well() -> None:
    workers = [view("a", S.STOPPED, 12), view("b", charge=6, leases=1), view("c", charge=6)]
    waits, later = line_up("a c", *workers)
    assert waits == Wait("a waits for memory", 12, ("c", "b"))
    assert later == Wait("c must leave for an earlier request")


def test_nothing_starts_in_memory_that_an_earlier_request_has_reserved() -> None:
    workers = [view("a", S.STOPPED, 12), view("b", charge=6, leases=1), view("c", S.STOPPED, 6)]
    waits, later = line_up("a c", *workers)
    assert isinstance(waits, Wait)
    assert isinstance(later, Wait)


def test_a_model_that_fits_with_the_earlier_reservation_is_started() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8, leases=1), view("c", S.STOPPED, 4)]
    assert line_up("a c", *workers) == [Wait("a waits for memory", 8, ("b",)), Start(4)]


def test_nothing_starts_in_the_memory_of_a_busy_worker_that_an_earlier_request_waits_for() -> None:
    # Once c has left there is room for both; until then there is none, and c may stay busy for long.
    workers = [view("a", S.STOPPED, 6), view("b", S.STOPPED, 6), view("c", charge=12, leases=1)]
    assert line_up("a b", *workers) == [
        Wait("a waits for memory", 6, ("c",)),
        Wait("b waits for memory", 6),
    ]


def test_two_loads_never_count_on_the_same_memory() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", S.STOPPED, 8), view("c", charge=8)]
    plans = line_up("a b", *workers)
    assert plans == [Start(8, ("c",)), Wait("b waits for memory", memory=8)]


# --- turns -----------------------------------------------------------------------------------------


def at(now: float, waiting: str, *workers: WorkerView, **terms: Any) -> list[Plan]:
    """*waiting* is "alias@since ..."."""
    line = [Waiting(alias, float(since)) for alias, since in (w.split("@") for w in waiting.split())]
    return schedule(line, {w.alias: w for w in workers}, Terms(12, **terms), now)


def test_a_loaded_model_is_served_while_another_has_not_waited_long() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8, leases=1)]
    plans = at(109, "a@100 b@109", *workers, max_wait_s=10)
    assert plans == [Wait("a waits for memory", 8), Serve()]


def test_a_model_whose_turn_is_over_gets_no_more_requests() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8, leases=1)]
    plans = at(110, "a@100 b@110", *workers, max_wait_s=10)
    assert plans == [Wait("a waits for memory", 8, ("b",)), Wait("b must leave for an earlier request")]


def test_an_idle_model_is_evicted_at_once() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8)]
    assert at(100, "a@100", *workers, max_wait_s=10) == [Start(8, ("b",))]


def test_a_worker_whose_client_only_pauses_is_not_evicted_yet() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8, last_used=100.0)]
    terms = {"max_wait_s": 10}  # so a worker lingers for 1 s
    assert at(100.9, "a@100.5", *workers, **terms) == [Wait("a waits for memory", 8, until=101.0)]
    assert at(101, "a@100.5", *workers, **terms) == [Start(8, ("b",))]


def test_memory_is_also_reserved_for_a_request_that_has_not_waited_long() -> None:
    workers = [view("a", S.STOPPED, 8), view("b", charge=8, leases=1), view("c", S.STOPPED, 8)]
    plans = at(101, "a@100 c@101", *workers, max_wait_s=10)
    assert plans == [Wait("a waits for memory", 8), Wait("c waits for memory", 8)]


# --- what was measured -----------------------------------------------------------------------------


def test_a_model_measured_above_the_budget_runs_alone() -> None:
    large, other = view("a", S.STOPPED, 15, declared=8), view("b", charge=1)
    assert ask(large, other) == Start(12, ("b",), alone=True)


def test_a_model_that_runs_alone_runs_with_the_pinned_workers() -> None:
    large = view("a", S.STOPPED, 15, declared=8)
    assert ask(large, view("b", charge=3, pinned=True)) == Start(9, alone=True)


def test_only_the_declared_memory_refuses_a_model() -> None:
    assert ask(view("a", S.STOPPED, 4, declared=13)) == Refuse(Why.TOO_LARGE)
    pinned = view("b", charge=5, pinned=True)
    assert ask(view("a", S.STOPPED, 4, declared=8), pinned) == Refuse(Why.PINNED, by=("b",))


def test_a_worker_that_outgrew_the_budget_is_unloaded_when_idle() -> None:
    grown = view("b", charge=20)
    assert ask(view("a", S.STOPPED, 8), grown) == Start(8, ("b",))
    assert ask(view("a", S.STOPPED, 8), replace(grown, leases=1)) == Wait(
        "a waits for memory", 8, ("b",)
    )


# --- pressure and replacement ----------------------------------------------------------------------


def test_under_pressure_nothing_is_loaded_and_loaded_models_serve() -> None:
    plans = at(100, "a@100 a@100 b@100", view("a", S.STOPPED), view("b"), loads=False)
    assert plans == [
        Wait("a waits until memory pressure falls", pressure=True),
        Wait("an earlier request waits for a", pressure=True),
        Serve(),
    ]


def test_a_worker_admits_no_more_requests_than_its_process_may_serve() -> None:
    first, second, third = line_up("a a a", view("a", admits=2))
    assert (first, second) == (Serve(), Serve())
    assert third == Wait("a fresh process will replace a")
