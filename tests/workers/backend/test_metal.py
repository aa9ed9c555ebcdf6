"""On a Mac, as far as a stand-in goes: nothing is wired, memory is bounded, buffers go back in steps.

The engines are the real ones on the demo models; only what MLX says of its GPU is made up. What a real
Metal does with it has never been seen by this project.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.settings import wired_limit_problem
from tests.workers.backend.metal import GIB, INFO, Face, wear
from tests.workers.backend.test_runtime import ROOT, run
from tests.workers.conftest import MODELS
from workers.backend import buffers, runtime
from workers.backend.buffers import MIB, STEP_BYTES, next_limit
from workers.engine import LoadError

WHOLE_LIFE = """
import json, sys, threading
from workers.backend import runtime
runtime.prepare()
import mlx.core as mx
import mlx_vlm.models.rope_utils as ropes
from tests.workers.backend.metal import wear
from workers.backend.buffers import without_clear_cache
ropes.mx = without_clear_cache(mx)  # it would run a kernel of Metal's
face = wear(mx)
from contracts.settings.models import ImageSettings, VlmSettings
from demo.world import Scene, Thing, render
from workers.engine import ChatJob, ImageJob, Sampling, Turn
from workers.image.engine import MfluxEngine
from workers.serial_engine import run_job
from workers.vlm.engine import VlmEngine

folder, wired = sys.argv[1], int(sys.argv[2])
base = {"port": 1, "memory_gb": 2.0}
picture = render(Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),)))
large = {}

def question(*parts):
    return ChatJob((Turn("user", parts),), Sampling(temperature=0), 3)

def vlm(name):
    chunks = {"prefill_tokens": 32, "max_pixels": 16384}
    settings = VlmSettings(kind="vlm", path=f"{folder}/{name}", **chunks, **base)
    jobs = question("Hi"), question(picture, "What is this?" + " really" * 30)
    return VlmEngine(name, settings, wired), jobs

def painter(name):
    settings = ImageSettings(kind="image", family="flux1-schnell", path=f"{folder}/{name}",
                             size="64x64", residency="lean", **base)
    jobs = [ImageJob("a red circle", side, side, 1, 1, 0.0, 1) for side in (32, 64)]
    return MfluxEngine(name, settings, wired), jobs

def live(name):
    engine, jobs = (painter if name == "image-gen" else vlm)(name)
    engine.load(lambda phase, detail: None)
    counts = [engine.work().large_pictures]
    for job in jobs:
        run_job(engine, job)
        counts.append(engine.work().large_pictures)
    while engine.rest():
        pass
    engine.close()
    large[name] = counts

for name in sys.argv[3:]:
    thread = threading.Thread(target=live, args=[name])
    thread.start()
    thread.join()
print(json.dumps({"wired": face.wired, "memory": face.memory_limits, "clears": face.clears,
                  "large": large, "device": runtime.device_memory().limit}))
"""
ENGINES = ("vlm-fast", "vlm-best", "image-gen")


def lived(wired: int, *names: str) -> dict[str, Any]:
    """What MLX was asked for in the lives of the engines *names*, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_LIFE, str(MODELS), str(wired), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert list(told["large"]) == list(names), done.stderr
    return told


@pytest.mark.mlx
@pytest.mark.process
def test_from_load_to_unload_nothing_is_wired_and_no_cache_is_cleared_at_once() -> None:
    told = lived(0, *ENGINES)
    assert told["wired"] == []
    assert told["clears"] == 0
    assert told["memory"] == [2 * GIB] * 3
    assert told["device"] == INFO["max_recommended_working_set_size"]
    # Neither a text nor a small picture shows what a model needs; the warm-up does not either.
    assert told["large"] == {name: [0, 0, 1] for name in ENGINES}


@pytest.mark.mlx
@pytest.mark.process
def test_a_worker_wires_what_the_settings_ask_for_and_no_more() -> None:
    assert lived(GIB, "vlm-fast", "image-gen")["wired"] == [GIB] * 2


def test_a_wired_limit_is_bounded_well_below_what_the_gpu_may_hold() -> None:
    assert wired_limit_problem(5 * GIB, 10 * GIB) == ""
    problem = wired_limit_problem(6 * GIB, 10 * GIB)
    assert "workers.wired_limit: 6.0 GB is too much" in problem
    assert "at most 5.0 GB" in problem


def test_the_memory_limit_is_what_the_model_is_declared_to_need_unless_its_weights_are_that() -> None:
    assert runtime.memory_limit(8 * GIB, 6 * GIB, 10 * GIB) == 8 * GIB
    assert runtime.memory_limit(12 * GIB, 6 * GIB, 10 * GIB) == 10 * GIB
    assert runtime.memory_limit(6 * GIB, int(5.9 * GIB), 10 * GIB) == 10 * GIB


def test_the_cache_is_an_eighth_of_what_is_declared_and_a_gigabyte_at_most() -> None:
    assert runtime.cache_limit(int(4.5 * GIB)) == 576 * MIB
    assert runtime.cache_limit(11 * GIB) == GIB


def test_metal_is_told_to_bear_long_work_on_macos_alone() -> None:
    assert runtime.environment("darwin")["AGX_RELAX_CDM_CTXSTORE_TIMEOUT"] == "1"
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT" not in runtime.environment("linux")


@pytest.mark.process
def test_what_somebody_has_set_is_left_as_it_is() -> None:
    code = (
        "import json, os; from workers.backend import runtime\n"
        "runtime.environment = lambda: {'AGX_RELAX_CDM_CTXSTORE_TIMEOUT': '1', 'OTHER_OF_OURS': '1'}\n"
        "runtime.prepare()\n"
        "print(json.dumps([os.environ['AGX_RELAX_CDM_CTXSTORE_TIMEOUT'], os.environ['OTHER_OF_OURS']]))"
    )
    assert run(code, AGX_RELAX_CDM_CTXSTORE_TIMEOUT="0") == ["0", "1"]


# --- buffers ----------------------------------------------------------------------------------------


@given(st.integers(0, 4 * GIB), st.integers(0, GIB))
def test_each_step_frees_at_most_its_bytes_until_what_is_kept_is_left(cached: int, keep: int) -> None:
    steps = 0
    while (limit := next_limit(cached, keep)) is not None:
        assert keep <= limit < cached
        assert cached - limit <= STEP_BYTES
        cached, steps = limit, steps + 1
        assert steps <= 64
    assert cached <= max(keep, cached)


@pytest.fixture
def face(monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    import mlx.core as mx  # noqa: TID251 - a stand-in takes its place

    copy = buffers.without_clear_cache(mx)
    worn = wear(copy)
    monkeypatch.setitem(sys.modules, "mlx.core", copy)
    monkeypatch.setattr(sys.modules["mlx"], "core", copy)
    runtime._gpu_limit.cache_clear()
    yield worn
    runtime._gpu_limit.cache_clear()


@pytest.mark.mlx
def test_a_wired_limit_that_is_too_large_is_a_failed_load_that_names_the_setting(face: Face) -> None:
    with pytest.raises(LoadError, match=r"workers\.wired_limit: 6\.0 GB is too much"):
        runtime.limit_memory(8 * GIB, 6 * GIB)
    assert face.wired == []


@pytest.mark.mlx
def test_a_burst_is_given_back_in_steps_and_the_cache_limit_is_as_before(face: Face) -> None:
    face.limit = GIB
    face.buffers = [24 * MIB] * 40
    calls = 1
    while buffers.give_back(64 * MIB):
        calls += 1
        assert face.limit == GIB
    assert face.cached <= 64 * MIB
    assert max(face.freed) <= STEP_BYTES + 24 * MIB, "a step, and no more than one buffer beyond it"
    assert calls == len(face.freed) == pytest.approx((40 * 24 - 64) / 72, abs=1)
    assert face.clears == 0
    assert not buffers.give_back(64 * MIB)


@pytest.mark.mlx
def test_a_cache_that_does_not_shrink_is_not_asked_for_ever(face: Face, monkeypatch: Any) -> None:
    face.buffers = [GIB]
    monkeypatch.setattr(sys.modules["mlx.core"], "eval", lambda *arrays: None)
    assert not buffers.give_back(0)
