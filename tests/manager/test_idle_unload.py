"""Unloading without a request that needs the memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.control import WorkerState as S
from manager.headroom import SETTLE_S, memory_is_free
from manager.idle_unload import (
    idle_too_long,
    least_recently_used,
    next_idle_deadline,
    overcommitted,
)
from manager.planner import WorkerView


def view(alias: str, state: S = S.READY, charge: int = 4, **kw: Any) -> WorkerView:
    return WorkerView(alias, state, charge, **kw)


def world(*workers: WorkerView) -> dict[str, WorkerView]:
    return {w.alias: w for w in workers}


@pytest.mark.parametrize(
    ("worker", "leaves"),
    [
        (view("a", last_used=90, idle_timeout_s=10), True),
        (view("a", last_used=91, idle_timeout_s=10), False),
        (view("a", last_used=100, idle_timeout_s=0), True),
        (view("a", last_used=0, idle_timeout_s=-1), False),
        (view("a", last_used=0, idle_timeout_s=10, leases=1), False),
        (view("a", last_used=0, idle_timeout_s=10, pinned=True), False),
        (view("a", S.STARTING, last_used=0, idle_timeout_s=10), False),
    ],
)
def test_an_idle_worker_leaves_when_its_timeout_has_passed(worker: WorkerView, leaves: bool) -> None:
    assert idle_too_long({"a": worker}, now=100) == (("a",) if leaves else ())


def test_the_next_idle_timeout_is_known() -> None:
    workers = [
        view("a", last_used=95, idle_timeout_s=10),
        view("b", last_used=97, idle_timeout_s=5),
        view("c", last_used=1, idle_timeout_s=5, leases=1),
        view("d", last_used=1, idle_timeout_s=5),  # overdue: dealt with already
    ]
    assert next_idle_deadline({w.alias: w for w in workers}, now=100) == 102
    assert next_idle_deadline({}, now=100) is None


# --- growth ----------------------------------------------------------------------------------------


def test_no_worker_leaves_while_all_fit() -> None:
    assert overcommitted(world(view("a"), view("b")), 8) == ()


def test_idle_workers_leave_for_those_that_have_grown_least_recently_used_first() -> None:
    workers = world(view("a", charge=9, leases=1), view("b", last_used=2), view("c", last_used=1))
    assert overcommitted(workers, 13) == ("c",)
    assert overcommitted(workers, 10) == ("c", "b")


def test_all_idle_workers_leave_even_if_that_is_not_enough() -> None:
    workers = world(view("a", charge=20, leases=1), view("b"), view("c", charge=1, last_used=1))
    assert overcommitted(workers, 10) == ("b", "c")


def test_the_last_worker_stays_however_large() -> None:
    assert overcommitted(world(view("a", charge=20), view("b", S.STOPPING, 9)), 10) == ()


@given(
    st.lists(
        st.builds(
            WorkerView,
            alias=st.sampled_from("abcdef"),
            state=st.sampled_from(list(S)),
            charge=st.integers(1, 9),
            leases=st.integers(0, 1),
            pinned=st.booleans(),
        ),
        unique_by=lambda w: w.alias,
    ),
    st.integers(1, 30),
)
def test_no_busy_or_pinned_worker_leaves_and_none_without_need(
    views: list[WorkerView], budget: int
) -> None:
    workers = world(*views)
    victims = overcommitted(workers, budget)
    assert all(workers[v].evictable for v in victims)
    if victims:
        assert sum(w.charge for w in views if w.stays) > budget


# --- pressure, and memory that is late -------------------------------------------------------------


def test_under_pressure_the_least_recently_used_leaves_first_and_no_busy_or_pinned_one() -> None:
    busy, pinned = view("a", leases=1), view("b", pinned=True)
    assert least_recently_used(world(busy, pinned)) is None
    assert (
        least_recently_used(world(busy, pinned, view("c", last_used=2), view("d", last_used=1))) == "d"
    )


def test_a_load_waits_for_free_memory_but_not_forever() -> None:
    assert memory_is_free(8, available=8, freed_ago_s=0)
    assert not memory_is_free(8, available=7, freed_ago_s=SETTLE_S - 0.1)
    assert memory_is_free(8, available=7, freed_ago_s=SETTLE_S)
