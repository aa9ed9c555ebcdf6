"""The machine is named by its kind."""

from __future__ import annotations

import platform

from bench.machine import kind, machine


def test_a_machine_is_named_by_its_kind() -> None:
    python = ".".join(platform.python_version_tuple()[:2])
    told = kind(
        cores=2,
        architecture="x86_64",
        processor="AMD EPYC",
        memory_bytes=8 << 30,
        system="Linux",
        mlx="0.32.4 on the CPU",
    )
    assert told == f"2-core x86-64 (AMD EPYC), 8 GB, Linux, MLX 0.32.4 on the CPU, Python {python}"


def test_what_has_no_name_is_left_out() -> None:
    told = kind(
        cores=8,
        architecture="arm64",
        processor="",
        memory_bytes=16 << 30,
        system="Darwin",
        mlx="1 on the GPU",
    )
    assert told.startswith("8-core arm64, 16 GB, macOS, MLX 1 on the GPU")


def test_the_host_s_name_is_not_told() -> None:
    assert platform.node() not in machine()
