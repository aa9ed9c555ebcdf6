"""The step plan: each rule, properties of any snapshot, and the scheduler under simulated load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.vlm.simulation import PREFILL_TOKENS, Costs, Load, Simulation
from workers.vlm.sequence import Status
from workers.vlm.step_plan import (
    ALL_STAGES,
    Encode,
    Prefill,
    Prefilling,
    Snapshot,
    Stall,
    Start,
    StepPlan,
    plan_step,
)

FITS, SPENT = Stall(1.0), Stall(1.0, spent_s=0.6, last_s=0.6)


def snapshot(**fields: Any) -> Snapshot:
    return replace(Snapshot(4, chunk=32, chunk_alone=512, stall=FITS), **fields)


class TestRules:
    def test_an_idle_engine_has_nothing_to_do(self) -> None:
        assert plan_step(snapshot()) == StepPlan()

    def test_all_decoding_sequences_decode_when_there_is_no_prefill_work(self) -> None:
        assert plan_step(snapshot(decoding=(3, 5))) == StepPlan(decode=(3, 5))

    def test_the_first_waiting_sequence_starts_when_nothing_is_prefilled(self) -> None:
        assert plan_step(snapshot(waiting=(7, 8))) == StepPlan(work=Start(7))
        assert plan_step(snapshot(decoding=(1, 2, 3), waiting=(7, 8))) == StepPlan(work=Start(7))

    def test_no_sequence_starts_in_a_full_batch(self) -> None:
        full = snapshot(decoding=(1, 2, 3, 4), waiting=(7,))
        assert plan_step(full) == StepPlan(decode=(1, 2, 3, 4))

    def test_the_next_sequence_waits_for_the_end_of_the_prefill(self) -> None:
        now = snapshot(prefilling=Prefilling(7, 0, 90), waiting=(8,))
        assert plan_step(now) == StepPlan(work=Prefill(7, 90))

    def test_sequences_decode_again_once_they_have_waited_long_enough(self) -> None:
        for fields in ({"waiting": (7,)}, {"prefilling": Prefilling(7, 1, 90)}):
            assert plan_step(snapshot(decoding=(1,), stall=FITS, **fields)).work is not None
            assert plan_step(snapshot(decoding=(1,), stall=SPENT, **fields)) == StepPlan(decode=(1,))

    def test_an_image_is_encoded_at_once_alone_and_stage_by_stage_next_to_others(self) -> None:
        now = snapshot(prefilling=Prefilling(7, 2, 90))
        assert plan_step(now) == StepPlan(work=Encode(7, ALL_STAGES))
        assert plan_step(replace(now, decoding=(1,))) == StepPlan(work=Encode(7, 1))

    def test_chunks_are_as_large_as_the_budget_allows_and_the_architecture_needs(self) -> None:
        now = snapshot(prefilling=Prefilling(7, 0, 900))
        assert plan_step(now) == StepPlan(work=Prefill(7, 512))
        assert plan_step(replace(now, decoding=(1,))) == StepPlan(work=Prefill(7, 32))
        needed = replace(now, decoding=(1,), prefilling=Prefilling(7, 0, 900, min_chunk=730))
        assert plan_step(needed) == StepPlan(work=Prefill(7, 730))

    def test_cancelled_sequences_are_dropped_and_take_no_part_in_the_step(self) -> None:
        now = snapshot(decoding=(1, 2), prefilling=Prefilling(3, 0, 9), waiting=(4, 5))
        assert plan_step(replace(now, cancelled=(3, 4))) == StepPlan((3, 4), work=Start(5))
        assert plan_step(replace(now, stall=SPENT, cancelled=(1,))) == StepPlan((1,), decode=(2,))
        everything = replace(now, cancelled=(1, 2, 3, 4, 5))
        assert plan_step(everything) == StepPlan((1, 2, 3, 4, 5))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    limit = draw(st.integers(1, 4))
    decoding = tuple(range(draw(st.integers(0, limit))))
    prefilling = None
    if len(decoding) < limit and draw(st.booleans()):
        rest = draw(st.integers(1, 2000)), draw(st.integers(-10, 800))
        prefilling = Prefilling(50, draw(st.integers(0, 3)), *rest)
    waiting = tuple(range(100, 100 + draw(st.integers(0, 4))))
    everything = [*decoding, *waiting, *([50] if prefilling else [])]
    cancelled = draw(st.lists(st.sampled_from(everything), unique=True)) if everything else []
    spent = draw(st.floats(0, 3)), draw(st.floats(0, 3))
    return Snapshot(
        limit,
        decoding,
        prefilling,
        waiting,
        tuple(cancelled),
        chunk=draw(st.sampled_from([32, 64, 512])),
        chunk_alone=512,
        stall=Stall(1.0, *spent),
    )


@given(snapshots())
def test_every_plan_is_valid_and_makes_progress(now: Snapshot) -> None:
    plan = plan_step(now)
    gone = set(now.cancelled)
    alive = [id for id in now.decoding if id not in gone]
    waiting = [id for id in now.waiting if id not in gone]
    prefilling = now.prefilling if now.prefilling and now.prefilling.id not in gone else None
    assert plan.drop == now.cancelled
    assert not (plan.decode and plan.work)
    if alive or waiting or prefilling:
        assert plan.decode or plan.work
    if plan.decode:
        assert list(plan.decode) == alive
        pending = prefilling or (waiting and len(alive) < now.max_concurrency)
        assert not (pending and now.stall.allows_more)
    match plan.work:
        case Start(id):
            assert prefilling is None
            assert id == waiting[0]
            assert len(alive) < now.max_concurrency
        case Encode(id, stages):
            assert prefilling is not None
            assert (id, prefilling.images > 0, stages >= 1) == (prefilling.id, True, True)
        case Prefill(id, tokens):
            assert prefilling is not None
            assert (id, prefilling.images) == (prefilling.id, 0)
            assert 1 <= tokens <= prefilling.tokens
            assert tokens >= min(prefilling.min_chunk, prefilling.tokens)


def loads() -> st.SearchStrategy[Load]:
    return st.builds(
        Load,
        at=st.floats(0, 5),
        prompt=st.integers(1, 900),
        tokens=st.integers(1, 12),
        n=st.integers(1, 3),
        images=st.integers(0, 1),
        stages=st.integers(1, 8),
        leaves_at=st.one_of(st.none(), st.floats(0, 6)),
        min_chunk=st.sampled_from([0, 200]),
    )


def costs() -> st.SearchStrategy[Costs]:
    some = st.floats(1e-4, 0.05)
    return st.builds(Costs, decode=some, row=some, chunk=some, token=st.floats(1e-6, 1e-3), stage=some)


class TestSimulation:
    """``Simulation`` itself checks concurrency, drops, progress and the stall bound after each step."""

    @settings(max_examples=60, deadline=None)
    @given(st.lists(loads(), min_size=1, max_size=7), st.integers(1, 5), costs())
    def test_every_sequence_finishes_and_all_start_in_order_of_admission(
        self, jobs: list[Load], max_concurrency: int, cost: Costs
    ) -> None:
        done = Simulation(jobs, max_concurrency, cost).run()
        assert done.started == sorted(done.started)
        stayed = sum(client.load.n for client in done.clients if client.load.leaves_at is None)
        assert len(done.started) >= stayed

    @settings(max_examples=25, deadline=None)
    @given(st.lists(loads(), min_size=2, max_size=6), costs())
    def test_two_decode_steps_have_prefill_work_between_them_if_there_is_any(
        self, jobs: list[Load], cost: Costs
    ) -> None:
        never_full = sum(job.n for job in jobs)
        done = Simulation([replace(job, at=0.0) for job in jobs], never_full, cost).run()
        last_work = max((at for at, plan in enumerate(done.plans) if plan.work), default=0)
        for one, other in zip(done.plans, done.plans[1 : last_work + 1], strict=False):
            assert not (one.decode and other.decode)

    def test_a_long_prompt_is_cut_into_small_chunks_while_another_sequence_decodes(self) -> None:
        running, long = Load(0.0, 8, 400), Load(1.0, 2000, 1)
        slow = Costs(token=0.001)
        done = Simulation([running, long], costs=slow).run()
        chunks = [p.work.tokens for p in done.plans if isinstance(p.work, Prefill) and p.work.id == 1]
        assert sum(chunks) == 2000
        assert max(chunks) < PREFILL_TOKENS
        alone = Simulation([long], costs=slow).run()
        assert max(p.work.tokens for p in alone.plans if isinstance(p.work, Prefill)) == PREFILL_TOKENS

    def test_a_burst_of_short_prompts_is_prefilled_between_two_decode_steps(self) -> None:
        done = Simulation([Load(0.0, 8, 400), *[Load(1.0, 8, 5)] * 5]).run()
        first = next(at for at, plan in enumerate(done.plans) if plan.work == Start(1))
        assert not any(plan.decode for plan in done.plans[first : first + 10])

    def test_prefill_work_while_nothing_decodes_does_not_count_as_stall(self) -> None:
        done = Simulation([Load(0.0, 2000, 50), Load(0.0, 8, 5)]).run()
        first_decode = next(at for at, plan in enumerate(done.plans) if plan.decode)
        assert Start(1) in [plan.work for plan in done.plans[:first_decode]]

    def test_only_the_first_chunk_has_a_minimum_size(self) -> None:
        loads = [Load(0.0, 8, 400), Load(1.0, 2000, 1, min_chunk=200)]
        done = Simulation(loads, costs=Costs(token=0.001)).run()
        chunks = [p.work.tokens for p in done.plans if isinstance(p.work, Prefill) and p.work.id == 1]
        assert chunks[0] == 200
        assert max(chunks[1:]) < 200


class TestScheduler:
    def full(self, decoding: int, waiting: int, leaves_at: float | None = None) -> Simulation:
        """A full batch. The first sequence is cancelled at time *leaves_at*."""
        simulation = Simulation([], max_concurrency=decoding)
        simulation.admit(Load(0.0, 8, 9, leaves_at=leaves_at))
        for _ in range(decoding + waiting - 1):
            simulation.admit(Load(0.0, 8, 9))
        for sequence in list(simulation.scheduler.sequences.values())[:decoding]:
            sequence.status = Status.DECODING
        return simulation

    def test_decode_steps_are_measured_only_while_no_sequence_waits(self) -> None:
        for waiting, measured in ((0, True), (1, False)):
            scheduler = self.full(2, waiting).scheduler
            before = scheduler.budget.stall_s
            scheduler.decoded(5.0)
            assert (scheduler.budget.stall_s != before) is measured

    def test_a_cancelled_sequence_in_a_full_batch_does_not_end_the_stall_limit(self) -> None:
        scheduler = self.full(2, 1, leaves_at=0.0).scheduler
        assert scheduler.schedule() == StepPlan((0,), work=Start(2))
        scheduler.worked(10.0)
        assert scheduler.schedule() == StepPlan((0,), decode=(1,))
