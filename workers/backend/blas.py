"""A faster BLAS for MLX on a Linux CPU.

The mlx-cpu wheel for Linux bundles netlib's reference BLAS (about 5 GFLOP/s). opencv-python, which both
model libraries depend on, bundles an OpenBLAS that exports the same ``cblas_sgemm`` (80-180 GFLOP/s on
two cores). If it is loaded globally before MLX, MLX calls it. bf16 and quantized products use no BLAS.

Rules: only on Linux, only before mlx is imported, only if the library is installed and takes 32-bit
integers. Never fatal: without it everything works, more slowly. VISION_FAST_BLAS=0 turns it off. A test
compares the results of both.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from pathlib import Path

SWITCH = "VISION_FAST_BLAS"
log = logging.getLogger(__name__)


def enable() -> Path | None:
    """Load opencv's OpenBLAS globally. Returns its path, or None if that does not apply."""
    if sys.platform != "linux" or "mlx.core" in sys.modules or os.environ.get(SWITCH) == "0":
        return None
    try:
        for library in _candidates():
            if _load(library):
                log.info("fast BLAS: %s", library.name)
                return library
    except Exception as exc:  # an optimization must not stop a worker
        log.warning("no fast BLAS: %s", exc)
    return None


def _candidates() -> list[Path]:
    spec = importlib.util.find_spec("cv2")
    if spec is None or spec.origin is None:
        return []
    site = Path(spec.origin).parents[1]
    return sorted(site.glob("opencv_python*.libs/libopenblas*.so*"))


def _load(path: Path) -> bool:
    # Read once, when the library is loaded. More threads than cores make it several times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    try:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        if not hasattr(library, "cblas_sgemm") or _has_64_bit_integers(library):
            return False
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as exc:
        log.warning("no fast BLAS: %s: %s", path.name, exc)
        return False
    return True


def _has_64_bit_integers(library: ctypes.CDLL) -> bool:
    """MLX passes 32-bit integers; a library built for 64-bit ones would read garbage."""
    try:
        config = library.openblas_get_config
    except AttributeError:
        return True  # an unknown OpenBLAS
    config.restype = ctypes.c_char_p
    return b"USE64BITINT" in config()
