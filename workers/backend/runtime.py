"""Prepares the process for MLX and the model libraries; an engine's load calls ``prepare`` first.

Rules: environment first (libraries read it when they are imported), then BLAS (it must be loaded before
MLX), then MLX. Harmless warnings are silenced one by one. ``device_memory`` may be called on any thread
and never imports MLX.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sys
import warnings
from typing import Any

from contracts.control import DeviceMemory
from contracts.settings import wired_limit_problem
from workers.backend import blas, unwanted_imports
from workers.engine import LoadError

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",  # "PyTorch was not found", "bos_token_id ...", per request
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# Undocumented, best effort: macOS 26 ends long GPU work while a display is on ("Impacting
# Interactivity"); this makes it wait longer (https://github.com/ml-explore/mlx/issues/3267).
_ON_MACOS = {"AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"}
# (message, category): DeprecationWarnings that libraries cause in each other.
_HARMLESS_WARNINGS = (
    # sentencepiece, on Python 3.12 and later
    (r"builtin type [Ss]wig\w+ has no __module__ attribute", DeprecationWarning),
)
WIDEN_LIMIT_BYTES = (
    1 << 30
)  # of weights in float32; larger models keep the type in which they were saved
CACHE_LIMIT_BYTES = 1 << 30  # of freed buffers that MLX keeps; unbounded, it keeps the largest peak
_CACHE_SHARE = 1 / 8  # of the model's declared memory
_NEARLY_ALL = 0.9


def environment(platform: str = sys.platform) -> dict[str, str]:
    """The variables that ``prepare`` sets unless they are set already."""
    return _ENVIRONMENT | (_ON_MACOS if platform == "darwin" else {})


def prepare(cache_limit: int = CACHE_LIMIT_BYTES) -> None:
    """Set the environment, load a BLAS, import MLX and bound its cache of freed buffers."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    silence_harmless_warnings()
    unwanted_imports.hide()
    blas.enable()
    import mlx.core as mx  # noqa: TID251 - for the engines

    if lacks_compiler(mx):
        log.warning("no g++ on PATH: MLX runs uncompiled, a little more slowly")
        mx.disable_compile()
    mx.set_cache_limit(cache_limit)


def cache_limit(declared: int) -> int:
    """Bytes of freed buffers that MLX keeps for a model with *declared* bytes of memory."""
    return min(CACHE_LIMIT_BYTES, int(_CACHE_SHARE * declared))


def silence_harmless_warnings() -> None:
    for message, category in _HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)


def lacks_compiler(mx: object) -> bool:
    """Is ``g++`` missing, with which MLX's CPU back end builds fused kernels at run time?

    MLX 0.32.4 checks that, too; not relying on it costs nothing.
    """
    device = mx.default_device()  # type: ignore[attr-defined]
    on_cpu = device.type == mx.cpu  # type: ignore[attr-defined]
    return sys.platform == "linux" and on_cpu and shutil.which("g++") is None


def widen(model: Any, limit_bytes: int = WIDEN_LIMIT_BYTES) -> bool:
    """Convert a small bf16 *model* to float32 on the CPU, where that is four times as fast.

    MLX's CPU back end uses a BLAS for float32 only. Models that would have more than *limit_bytes* of
    weights, and quantized ones, are left unchanged. Returns whether it was converted.
    """
    import mlx.core as mx  # noqa: TID251
    from mlx.utils import tree_flatten  # noqa: TID251

    if mx.default_device().type != mx.cpu:
        return False
    weights = dict(tree_flatten(model.parameters()))
    quantized = any(name.rpartition(".")[2] == "scales" for name in weights)
    if quantized or 4 * sum(value.size for value in weights.values()) > limit_bytes:
        return False
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return True


def limit_memory(declared: int, wired: int = 0) -> None:
    """On Metal, limit this process to *declared* bytes and wire *wired* of them (0: none).

    Call it when the model is loaded. Nothing is wired unless the settings say so: with a wired limit,
    concurrent requests with changing buffers make macOS panic
    (https://github.com/ml-explore/mlx/issues/3186). The price: after minutes without requests, macOS
    may have compressed the model, and the first response takes longer. Raises ``LoadError`` for a wired
    limit that is too large.
    """
    import mlx.core as mx  # noqa: TID251

    if not mx.metal.is_available():
        return
    most = _gpu_limit()
    if most:
        mx.set_memory_limit(memory_limit(declared, mx.get_active_memory(), most))
    if wired:
        if problem := wired_limit_problem(wired, most):
            raise LoadError(problem)
        mx.set_wired_limit(wired)


def memory_limit(declared: int, held: int, most: int) -> int:
    """The bytes at which MLX frees its cache and waits for running work before it allocates more.

    These are the model's *declared* bytes, unless the loaded model *held* nearly all of them: then
    every buffer would be freed and allocated again. *most*: the GPU's limit.
    """
    return most if held > _NEARLY_ALL * declared else min(declared, most)


def device_memory() -> DeviceMemory:
    """The memory that MLX holds; zeros until it is imported. For any thread: it reads counters."""
    mx = sys.modules.get("mlx.core")
    if mx is None or not hasattr(mx, "get_peak_memory"):  # not imported, or not completely
        return DeviceMemory()
    return DeviceMemory(
        active=mx.get_active_memory(),
        cache=mx.get_cache_memory(),
        peak=mx.get_peak_memory(),
        unified=mx.default_device().type == mx.cpu or mx.metal.is_available(),
        limit=_gpu_limit(),
    )


@functools.cache
def _gpu_limit() -> int:
    """The bytes that the GPU may hold, as Metal reports them; 0 without Metal."""
    mx = sys.modules["mlx.core"]
    if not mx.metal.is_available():
        return 0
    return int(mx.device_info().get("max_recommended_working_set_size", 0))
