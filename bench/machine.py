"""A description of the measuring machine by its hardware, never by its host name."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

_SAMPLE_S = 2.0
_ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "arm64"}


def machine() -> str:
    """``"2-core x86-64 (AMD EPYC), 8 GB, Linux, MLX 0.32.4 on the CPU, Python 3.11"``.

    Imports MLX: call it after measuring, because a worker chooses its BLAS before that import.
    """
    import mlx.core as mx  # noqa: TID251

    return kind(
        cores=os.cpu_count() or 1,
        architecture=platform.machine(),
        processor=_processor(),
        memory_bytes=psutil.virtual_memory().total,
        system=platform.system(),
        mlx=f"{version('mlx')} on the {'CPU' if mx.default_device().type == mx.cpu else 'GPU'}",
    )


def kind(
    *, cores: int, architecture: str, processor: str, memory_bytes: int, system: str, mlx: str
) -> str:
    named = f" ({processor})" if processor else ""
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"{cores}-core {_ARCHITECTURES.get(architecture, architecture)}{named},"
        f" {memory_bytes / 2**30:.0f} GB, {'macOS' if system == 'Darwin' else system},"
        f" MLX {mlx}, Python {python}"
    )


def busy() -> float:
    """The share of the CPU in use now, from 0 to 1; samples for two seconds."""
    return psutil.cpu_percent(interval=_SAMPLE_S) / 100


def _processor() -> str:
    if platform.system() == "Darwin":
        output = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
        return output.stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")
