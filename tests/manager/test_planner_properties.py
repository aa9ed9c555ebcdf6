"""Properties of the planner, over random worlds and streams of requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from contracts.control import WorkerState as S
from manager.lifecycle import HOLDS_MEMORY
from manager.planner import (
    Refuse,
    Serve,
    Start,
    Terms,
    Wait,
    Waiting,
    Why,
    WorkerView,
    choose_victims,
    plan,
    schedule,
)
from tests.manager.test_planner import view


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, WorkerView], int]:
    """Possible workers: those that stay fit into the budget, those that leave may exceed it."""
    views = []
    for alias in "abcdef"[: draw(st.integers(1, 6))]:
        state = draw(st.sampled_from(list(S)))
        views.append(
            WorkerView(
                alias,
                state,
                charge=draw(st.integers(1, 9)),
                leases=draw(st.integers(0, 2)) if state in (S.READY, S.DRAINING) else 0,
                last_used=draw(st.integers(0, 99)),
                busy_since=draw(st.integers(0, 99)),
                retry_at=draw(st.integers(90, 110)),
                load_failed=draw(st.booleans()),
                pinned=draw(st.booleans()),
                idle_timeout_s=draw(st.sampled_from([-1.0, 0.0, 50.0])),
            )
        )
    staying = sum(v.charge for v in views if v.state in HOLDS_MEMORY and v.state is not S.STOPPING)
    return {v.alias: v for v in views}, staying + draw(st.integers(0, 9))


def queues(world: dict[str, WorkerView]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(world)), max_size=12)


@given(st.data())
def test_a_schedule_never_breaks_its_promises(data: st.DataObject) -> None:
    world, budget = data.draw(worlds())
    waiting = data.draw(queues(world))
    plans = schedule([Waiting(alias, 0) for alias in waiting], world, Terms(budget), 100)
    assert len(plans) == len(waiting)
    served: set[str] = set()
    started: list[str] = []
    evicted: list[str] = []
    held: set[str] = set()
    for alias, made in zip(waiting, plans, strict=True):
        match made:
            case Serve():
                assert world[alias].state is S.READY
                assert alias not in held, (
                    "granted ahead of an earlier request that waits for its memory"
                )
                assert alias not in evicted
                served.add(alias)
            case Start(memory, victims):
                assert memory == world[alias].charge
                assert world[alias].state in (S.STOPPED, S.FAILED)
                assert all(world[v].evictable for v in victims), "a busy or pinned victim"
                assert not served & set(victims), "a victim that was just granted"
                started.append(alias)
                evicted += victims
            case Wait():
                assert not any(world[h].pinned for h in made.held)
                held |= set(made.held)
            case Refuse(Why.PINNED):
                assert made.by
                assert all(world[p].pinned for p in made.by)
    assert len(started) == len(set(started)), "one load for any number of requests"
    assert len(evicted) == len(set(evicted))
    # Once the leaving workers have ended, all others fit.
    staying = [
        w
        for w in world.values()
        if w.state in HOLDS_MEMORY and w.state is not S.STOPPING and w.alias not in evicted
    ]
    assert sum(w.charge for w in staying) + sum(world[a].charge for a in started) <= budget
    # All requests for one alias get the same kind of plan.
    for alias in set(waiting):
        kinds = {type(p) for a, p in zip(waiting, plans, strict=True) if a == alias}
        assert kinds in ({Serve}, {Refuse}, {Wait}, {Start}, {Start, Wait}, {Serve, Wait})


@given(worlds(), st.integers(1, 40))
def test_victims_free_enough_memory_and_none_is_unneeded(
    generated: tuple[dict[str, WorkerView], int], shortfall: int
) -> None:
    world = generated[0]
    victims = [world[alias] for alias in choose_victims(world.values(), shortfall)]
    freed = sum(w.charge for w in victims)
    if victims:
        assert all(w.evictable for w in victims)
        assert freed >= shortfall
        assert all(freed - w.charge < shortfall for w in victims), "an unneeded victim"
    else:
        assert sum(w.charge for w in world.values() if w.evictable) < shortfall


@given(st.data())
def test_a_held_worker_is_evicted_when_idle(data: st.DataObject) -> None:
    world, budget = data.draw(worlds())
    alias = data.draw(st.sampled_from(sorted(world)))
    asked = Waiting(alias, 0)
    made = plan(asked, world, Terms(budget), 100)
    if isinstance(made, Wait) and made.held:
        idle = {a: replace(w, leases=0) if a in made.held else w for a, w in world.items()}
        assert isinstance(plan(asked, idle, Terms(budget), 100), Start)


def test_a_stream_of_requests_for_the_loaded_model_starves_no_other() -> None:
    world = {"w0": view("w0", charge=9), "w1": view("w1", charge=1), "z": view("z", S.STOPPED, 12)}
    assert gets_its_turn(world, 12, iter([["w0", "w0"]] * 9)) == 2


@given(st.data())
def test_a_stream_of_requests_for_any_other_models_starves_none(data: st.DataObject) -> None:
    budget = 12
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5), label="sizes")
    world: dict[str, WorkerView] = {}
    for i, size in enumerate(sizes):
        fits = sum(w.charge for w in world.values()) + size <= budget
        world[f"w{i}"] = view(f"w{i}", S.READY if fits else S.STOPPED, size)
    world["z"] = view("z", S.STOPPED, data.draw(st.integers(1, budget), label="z"))
    pair = st.lists(st.sampled_from([a for a in world if a != "z"]), min_size=2, max_size=2)
    gets_its_turn(world, budget, iter(lambda: data.draw(pair), None))


def gets_its_turn(world: dict[str, WorkerView], budget: int, others: Iterator[list[str]]) -> int:
    """Run a world in which, in each round, two requests of *others* arrive and the two oldest end.

    Without fairness some worker would be busy forever. Returns the round in which ``z``, queued after
    the first four, is started: as soon as the earlier requests have ended.
    """
    running: list[str] = []
    queue = [*next(others), *next(others), "z"]
    for now in range(20):
        queue = run_once(world, queue, running, budget, now)
        if world["z"].state is S.STARTING:
            return now
        for alias in running[:2]:
            world[alias] = replace(world[alias], leases=world[alias].leases - 1, last_used=now)
        running = running[2:]
        queue += next(others)
    raise AssertionError(f"starved: {world}, {queue}")


def run_once(
    world: dict[str, WorkerView], queue: list[str], running: list[str], budget: int, now: float
) -> list[str]:
    """Carry out a schedule; starts and stops take no time. Returns the requests that still wait."""
    left = []
    plans = schedule([Waiting(alias, now) for alias in queue], world, Terms(budget), now)
    for alias, made in zip(queue, plans, strict=True):
        worker = world[alias]
        match made:
            case Serve():
                since = worker.busy_since if worker.leases else now
                world[alias] = replace(
                    worker, leases=worker.leases + 1, last_used=now, busy_since=since
                )
                running.append(alias)
            case Start(_, victims):
                for victim in victims:
                    world[victim] = replace(world[victim], state=S.STOPPED)
                state = S.STARTING if alias == "z" else S.READY
                world[alias] = replace(worker, state=state, last_used=now)
                left.append(alias)
            case _:
                left.append(alias)
    return left
