"""``python -m bench.vlm_server ...``: ``mlx_vlm.server`` with the faster BLAS that our workers use.

With VISION_FAST_BLAS=0 it runs as its users have it.
"""

from __future__ import annotations

import runpy

from workers.backend import blas

if __name__ == "__main__":
    blas.enable()
    runpy.run_module("mlx_vlm.server", run_name="__main__", alter_sys=True)
