"""The lifecycle: all states x events against the table, leases across crashes, backoff."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.control import WorkerState as S
from manager.lifecycle import (
    BACKOFF_CAP_S,
    HOLDS_MEMORY,
    STABLE_S,
    TRANSITIONS,
    WHEN_REAPED,
    Event,
    IllegalTransition,
    Lifecycle,
    backoff,
)


def ready(now: float = 0.0) -> Lifecycle:
    life = Lifecycle()
    life.fire(Event.START, now)
    life.fire(Event.BECAME_READY, now)
    return life


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, Event)))
def test_the_table_is_the_whole_truth(state: S, event: Event) -> None:
    """An event that the table does not list raises, and changes nothing."""
    life = Lifecycle(state)
    if event in TRANSITIONS[state]:
        assert life.fire(event, now=0.0) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event} to a worker that is {state}"):
            life.fire(event, now=0.0)
        assert life == Lifecycle(state)


def test_every_state_can_be_reached() -> None:
    reached: set[S] = set()
    todo = {S.STOPPED}
    while todo:
        state = todo.pop()
        reached.add(state)
        todo |= set(TRANSITIONS[state].values()) - reached
    assert reached == set(S)


def test_the_exit_of_a_process_is_an_event_in_every_state_with_a_process() -> None:
    assert set(WHEN_REAPED) == HOLDS_MEMORY
    for state, event in WHEN_REAPED.items():
        assert TRANSITIONS[state][event] not in HOLDS_MEMORY


def test_a_busy_worker_is_drained_before_it_is_stopped() -> None:
    life = ready()
    life.lease(1.0)
    with pytest.raises(IllegalTransition, match="1 leases; drain it first"):
        life.fire(Event.STOP, 2.0)
    assert life.state is S.READY
    life.fire(Event.DRAIN, 2.0)
    assert life.fire(Event.STOP, 3.0) is S.STOPPING


@pytest.mark.parametrize("state", [s for s in S if s is not S.READY])
def test_only_a_ready_worker_is_leased(state: S) -> None:
    with pytest.raises(ValueError, match="cannot lease"):
        Lifecycle(state).lease(0.0)


def test_a_crash_drops_its_leases() -> None:
    life = ready()
    life.lease(2.0)
    life.fire(Event.CRASHED, 3.0)
    assert (life.leases, life.failures, life.retry_at) == (0, 1, 4.0)


def test_a_lease_from_before_a_crash_does_not_free_the_new_process() -> None:
    life = ready()
    stale = life.lease(1.0)
    life.fire(Event.CRASHED, 2.0)
    life.fire(Event.START, 3.0)
    life.fire(Event.BECAME_READY, 4.0)
    life.lease(5.0)
    life.release(stale, 6.0)
    assert life.leases == 1


def test_a_lease_that_is_released_twice_counts_once() -> None:
    life = ready()
    incarnation = life.lease(1.0)
    life.release(incarnation, 2.0)
    life.release(incarnation, 3.0)
    assert (life.leases, life.last_used) == (0, 2.0)


def test_the_idle_time_runs_from_the_end_of_the_last_request() -> None:
    life = ready()
    first, second = life.lease(1.0), life.lease(2.0)
    life.release(first, 50.0)
    life.release(second, 60.0)
    assert life.last_used == 60.0
    assert life.busy_since == 1.0


def test_being_ready_without_a_request_yet_counts_as_use() -> None:
    assert ready(now=7.0).last_used == 7.0


def test_a_failed_load_is_distinguished_from_a_crash() -> None:
    life = Lifecycle()
    life.fire(Event.START, 0.0)
    life.fire(Event.START_FAILED, 1.0)
    assert life.load_failed
    life.fire(Event.START, 2.0)
    life.fire(Event.BECAME_READY, 3.0)
    life.fire(Event.CRASHED, 4.0)
    assert not life.load_failed


def test_failures_add_up_over_loads_that_fail_and_over_crashes_soon_after_a_load() -> None:
    life = Lifecycle()
    waits = []
    for now in (0.0, 100.0, 200.0):
        life.fire(Event.START, now)
        life.fire(Event.START_FAILED, now)
        waits.append(life.retry_at - now)
    life.fire(Event.START, 300.0)
    life.fire(Event.BECAME_READY, 300.0)
    life.fire(Event.CRASHED, 301.0)
    waits.append(life.retry_at - 301.0)
    assert waits == [1, 2, 4, 8]


def test_a_stable_run_forgives_earlier_failures() -> None:
    for stable_s in (STABLE_S, 2 * STABLE_S):
        life = Lifecycle(failures=5)
        life.fire(Event.START, 0.0)
        life.fire(Event.BECAME_READY, 0.0)
        life.fire(Event.CRASHED, stable_s)
        assert (life.failures, life.load_failed) == (1, False)


def test_an_orderly_stop_forgives_earlier_failures() -> None:
    life = Lifecycle(failures=5)
    for event in (Event.START, Event.BECAME_READY, Event.STOP, Event.EXITED):
        life.fire(event, 1.0)
    assert (life.failures, life.retry_at) == (0, 0.0)


def test_each_start_is_a_new_incarnation() -> None:
    life = ready()
    assert life.incarnation == 1
    life.fire(Event.CRASHED, 0.0)
    life.fire(Event.START, 1.0)
    assert life.incarnation == 2


def test_backoff_doubles_up_to_its_cap() -> None:
    assert [backoff(n) for n in (1, 2, 3, 7, 5000)] == [1, 2, 4, 60, 60]


@given(st.lists(st.sampled_from([*Event, "lease", "release"]), max_size=60))
def test_leases_and_backoff_stay_consistent_under_any_events(steps: list[Event | str]) -> None:
    life, now = Lifecycle(), 0.0
    held: list[int] = []
    for step in steps:
        now += 1.0
        if step == "lease":
            if life.state is S.READY:
                held.append(life.lease(now))
        elif step == "release":
            if held:
                life.release(held.pop(), now)
        elif step in TRANSITIONS[life.state] and not (step == Event.STOP and life.leases):
            life.fire(Event(step), now)
        assert life.leases == sum(i == life.incarnation for i in held if life.state in HOLDS_MEMORY)
        assert life.leases == 0 or life.state in HOLDS_MEMORY
        assert 0.0 <= life.retry_at <= now + BACKOFF_CAP_S
