"""BLAS, compiler and memory counters, each in its own process because they are global."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.world import Scene, Thing, caption
from tests.workers.conftest import MODELS

ROOT = Path(__file__).resolve().parents[3]
SCENE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))

linux = pytest.mark.skipif(sys.platform != "linux", reason="only MLX's Linux CPU back end")
pytestmark = [pytest.mark.mlx, pytest.mark.process]

PRODUCTS = """
import json, logging, os, sys
from workers.backend import blas
found = blas.enable()
import mlx.core as mx
a = mx.arange(96 * 80, dtype=mx.float32).reshape(96, 80) % 7 - 3
b = mx.arange(80 * 64, dtype=mx.float32).reshape(80, 64) % 5 - 2
x = mx.sin(mx.arange(2 * 9 * 11 * 3, dtype=mx.float32)).reshape(2, 9, 11, 3)
w = mx.cos(mx.arange(4 * 3 * 3 * 3, dtype=mx.float32)).reshape(4, 3, 3, 3)
batched = mx.sin(mx.arange(5 * 33 * 17, dtype=mx.float32)).reshape(5, 33, 17)
results = [a @ b, b.T @ a.T, mx.conv2d(x, w, padding=1), batched @ batched.transpose(0, 2, 1),
           (a[:1] @ b), mx.addmm(mx.ones((96, 64)), a, b, 0.5, 2.0)]
print(json.dumps({"found": str(found), "results": [r.flatten().tolist() for r in results]}))
"""
CHAT_AND_GENERATE = """
import json, sys
from contracts.settings.models import ImageSettings, VlmSettings
from demo.world import Scene, Thing, render
from workers.vlm.completions import text_of
from workers.engine import ChatJob, ImageFinished, ImageJob, Sampling, Turn
from workers.image.engine import MfluxEngine
from workers.serial_engine import run_job
from workers.vlm.engine import VlmEngine
vlm = VlmEngine("vlm", VlmSettings(kind="vlm", path=sys.argv[1] + "/vlm-best", port=1, memory_gb=1.0))
vlm.load(lambda phase, detail: None)
image = render(Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),)))
turn = Turn("user", (image, "Write a one-sentence caption for this image."))
chat = []
run_job(vlm, ChatJob((turn,), Sampling(temperature=0), 30), chat.append)
settings = ImageSettings(kind="image", family="flux1-schnell", path=sys.argv[1] + "/image-gen", port=1,
                         memory_gb=1.0)
engine = MfluxEngine("image", settings)
engine.load(lambda phase, detail: None)
events = []
engine.run(ImageJob("a red circle on a blue background", 64, 64, 1, 1, 0.0, 1), events.append)
print(json.dumps({"text": text_of([event for event in chat if event]),
                  "images": sum(isinstance(event, ImageFinished) for event in events)}))
"""


def run(code: str, *argv: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_the_faster_blas_gives_the_same_results() -> None:
    pytest.importorskip("cv2", reason="the BLAS comes with opencv")
    stock = run(PRODUCTS, VISION_FAST_BLAS="0")
    fast = run(PRODUCTS, VISION_FAST_BLAS="1")
    assert stock["found"] == "None"
    assert "openblas" in fast["found"]
    for expected, found in zip(stock["results"], fast["results"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@linux
def test_without_opencv_no_blas_is_loaded() -> None:
    hidden = "import sys\nsys.modules['cv2'] = None\n" + PRODUCTS
    assert run(hidden)["found"] == "None"


@linux
def test_after_mlx_is_imported_no_blas_is_loaded() -> None:
    late = (
        "import json\nimport mlx.core\nfrom workers.backend import blas\n"
        "print(json.dumps(str(blas.enable())))"
    )
    assert run(late) == "None"


@linux
def test_both_models_work_without_a_compiler(tmp_path: Path) -> None:
    # A separate TMPDIR: MLX caches compiled kernels there.
    for name in ("bin", "tmp"):
        (tmp_path / name).mkdir()
    answer = run(
        CHAT_AND_GENERATE, str(MODELS), PATH=str(tmp_path / "bin"), TMPDIR=str(tmp_path / "tmp")
    )
    assert answer == {"text": caption(SCENE), "images": 1}


MEMORY = """
import json, sys, threading
from workers.backend import runtime
answers = [runtime.device_memory().model_dump(), "mlx.core" in sys.modules]
def own():
    import mlx.core as mx
    global held
    held = mx.ones(1 << 20)
    mx.eval(held)
thread = threading.Thread(target=own)
thread.start()
thread.join()
answers.append(runtime.device_memory().model_dump())
print(json.dumps(answers))
"""
WIDEN = """
import json
from workers.backend import runtime
runtime.prepare()
import mlx.core as mx, mlx.nn as nn
def layer(quantized=False):
    module = nn.Linear(64, 64)
    module.set_dtype(mx.bfloat16)
    return nn.QuantizedLinear.from_linear(module) if quantized else module
def widened(module, *limit):
    return [runtime.widen(module, *limit), str(module.parameters()["bias"].dtype).split(".")[-1]]
print(json.dumps([widened(layer()), widened(layer(), 1000), widened(layer(quantized=True))]))
"""


def test_any_thread_can_read_device_memory_without_importing_mlx() -> None:
    before, imported, after = run(MEMORY)
    assert (before, imported) == (
        {"active": 0, "cache": 0, "peak": 0, "unified": True, "limit": 0},
        False,
    )
    assert after["peak"] >= after["active"] >= 4 << 20
    assert after["unified"] is True


@linux
def test_a_small_bf16_model_is_converted_to_float32_on_a_cpu() -> None:
    small, large, quantized = run(WIDEN)
    assert small == [True, "float32"]
    assert large == [False, "bfloat16"]
    assert quantized == [False, "bfloat16"]
