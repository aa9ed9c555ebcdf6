"""On a simulated Mac: nothing is wired, memory is bounded, buffers are returned in steps.

Engines and demo models are real; only MLX's GPU is simulated. This project has never run on real Metal.
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
from tests.workers.backend.metal import GIB, INFO, FakeMetal, fake_metal
from tests.workers.backend.test_runtime import ROOT, run
from tests.workers.conftest import MODELS
from workers.backend import buffers, runtime
from workers.backend.buffers import MIB, STEP_BYTES, next_limit
from workers.engine import LoadError

LIFE = """
import json, sys, threading
from workers.backend import runtime
runtime.prepare()
import mlx.core as mx
import mlx_vlm.models.rope_utils as ropes
from tests.workers.backend.metal import fake_metal
from workers.backend.buffers import without_clear_cache
ropes.mx = without_clear_cache(mx)  # it would run a Metal kernel
fake = fake_metal(mx)
from contracts.settings.models import ImageSettings, VlmSettings
from demo.world import Scene, Thing, render
from workers.engine import ChatJob, ImageJob, Sampling, Turn
from workers.image.engine import MfluxEngine
from workers.serial_engine import run_job
from workers.vlm.engine import VlmEngine

folder, wired = sys.argv[1], int(sys.argv[2])
base = {"port": 1, "memory_gb": 2.0}
image = render(Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),)))
large = {}

def question(*parts):
    return ChatJob((Turn("user", parts),), Sampling(temperature=0), 3)

def vlm(name):
    chunks = {"prefill_tokens": 32, "max_pixels": 16384}
    settings = VlmSettings(kind="vlm", path=f"{folder}/{name}", **chunks, **base)
    jobs = question("Hi"), question(image, "What is this?" + " really" * 30)
    return VlmEngine(name, settings, wired), jobs

def image_model(name):
    settings = ImageSettings(kind="image", family="flux1-schnell", path=f"{folder}/{name}",
                             size="64x64", residency="lean", **base)
    jobs = [ImageJob("a red circle", side, side, 1, 1, 0.0, 1) for side in (32, 64)]
    return MfluxEngine(name, settings, wired), jobs

def live(name):
    engine, jobs = (image_model if name == "image-gen" else vlm)(name)
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
print(json.dumps({"wired": fake.wired, "memory": fake.memory_limits, "clears": fake.clears,
                  "large": large, "device": runtime.device_memory().limit}))
"""
ENGINES = ("vlm-fast", "vlm-best", "image-gen")


def calls_of(wired: int, *names: str) -> dict[str, Any]:
    """The calls to MLX from load to unload of the engines *names*, in their own process."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(MODELS), str(wired), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    calls: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert list(calls["large"]) == list(names), done.stderr
    return calls


@pytest.mark.mlx
@pytest.mark.process
def test_from_load_to_unload_nothing_is_wired_and_no_cache_is_cleared() -> None:
    calls = calls_of(0, *ENGINES)
    assert calls["wired"] == []
    assert calls["clears"] == 0
    assert calls["memory"] == [2 * GIB] * 3
    assert calls["device"] == INFO["max_recommended_working_set_size"]
    # Text, small images and the warm-up do not show how much memory a model needs.
    assert calls["large"] == {name: [0, 0, 1] for name in ENGINES}


@pytest.mark.mlx
@pytest.mark.process
def test_a_worker_wires_as_much_as_the_settings_say() -> None:
    assert calls_of(GIB, "vlm-fast", "image-gen")["wired"] == [GIB] * 2


def test_a_wired_limit_is_bounded_well_below_the_gpu_s() -> None:
    assert wired_limit_problem(5 * GIB, 10 * GIB) == ""
    problem = wired_limit_problem(6 * GIB, 10 * GIB)
    assert "workers.wired_limit: 6.0 GB is too large" in problem
    assert "at most 5.0 GB" in problem


def test_the_memory_limit_is_the_declared_memory_unless_the_weights_fill_it() -> None:
    assert runtime.memory_limit(8 * GIB, 6 * GIB, 10 * GIB) == 8 * GIB
    assert runtime.memory_limit(12 * GIB, 6 * GIB, 10 * GIB) == 10 * GIB
    assert runtime.memory_limit(6 * GIB, int(5.9 * GIB), 10 * GIB) == 10 * GIB


def test_the_cache_limit_is_an_eighth_of_the_declared_memory_and_at_most_a_gigabyte() -> None:
    assert runtime.cache_limit(int(4.5 * GIB)) == 576 * MIB
    assert runtime.cache_limit(11 * GIB) == GIB


def test_only_macos_has_a_longer_gpu_timeout() -> None:
    assert runtime.environment("darwin")["AGX_RELAX_CDM_CTXSTORE_TIMEOUT"] == "1"
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT" not in runtime.environment("linux")


@pytest.mark.process
def test_variables_that_are_set_are_kept() -> None:
    code = (
        "import json, os; from workers.backend import runtime\n"
        "runtime.environment = lambda: {'AGX_RELAX_CDM_CTXSTORE_TIMEOUT': '1', 'OTHER_OF_OURS': '1'}\n"
        "runtime.prepare()\n"
        "print(json.dumps([os.environ['AGX_RELAX_CDM_CTXSTORE_TIMEOUT'], os.environ['OTHER_OF_OURS']]))"
    )
    assert run(code, AGX_RELAX_CDM_CTXSTORE_TIMEOUT="0") == ["0", "1"]


# --- buffers ----------------------------------------------------------------------------------------


@given(st.integers(0, 4 * GIB), st.integers(0, GIB))
def test_steps_are_bounded_and_end_at_the_bytes_to_keep(cached: int, keep: int) -> None:
    steps = 0
    while (limit := next_limit(cached, keep)) is not None:
        assert keep <= limit < cached
        assert cached - limit <= STEP_BYTES
        cached, steps = limit, steps + 1
        assert steps <= 64
    assert cached <= max(keep, cached)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    import mlx.core as mx  # noqa: TID251 - replaced by a fake

    copy = buffers.without_clear_cache(mx)
    fake = fake_metal(copy)
    monkeypatch.setitem(sys.modules, "mlx.core", copy)
    monkeypatch.setattr(sys.modules["mlx"], "core", copy)
    runtime._gpu_limit.cache_clear()
    yield fake
    runtime._gpu_limit.cache_clear()


@pytest.mark.mlx
def test_a_wired_limit_that_is_too_large_fails_the_load_naming_the_setting(metal: FakeMetal) -> None:
    with pytest.raises(LoadError, match=r"workers\.wired_limit: 6\.0 GB is too large"):
        runtime.limit_memory(8 * GIB, 6 * GIB)
    assert metal.wired == []


@pytest.mark.mlx
def test_buffers_are_returned_in_steps_and_the_cache_limit_is_restored(metal: FakeMetal) -> None:
    metal.limit = GIB
    metal.buffers = [24 * MIB] * 40
    calls = 1
    while buffers.give_back(64 * MIB):
        calls += 1
        assert metal.limit == GIB
    assert metal.cached <= 64 * MIB
    assert max(metal.freed) <= STEP_BYTES + 24 * MIB, "one step, and at most one buffer more"
    assert calls == len(metal.freed) == pytest.approx((40 * 24 - 64) / 72, abs=1)
    assert metal.clears == 0
    assert not buffers.give_back(64 * MIB)


@pytest.mark.mlx
def test_a_cache_that_does_not_shrink_is_not_tried_again(metal: FakeMetal, monkeypatch: Any) -> None:
    metal.buffers = [GIB]
    monkeypatch.setattr(sys.modules["mlx.core"], "eval", lambda *arrays: None)
    assert not buffers.give_back(0)
