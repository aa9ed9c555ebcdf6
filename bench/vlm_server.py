"""``python -m bench.vlm_server ...``: ``mlx_vlm.server``, with the faster BLAS that our workers use.

Unless VISION_FAST_BLAS=0, which makes it what its users have.
"""

from __future__ import annotations

import runpy

from workers.backend import blas

if __name__ == "__main__":
    blas.enable()
    runpy.run_module("mlx_vlm.server", run_name="__main__", alter_sys=True)
