"""The machine is described by its hardware."""

from __future__ import annotations

import platform

from bench.machine import kind, machine


def test_a_machine_is_described_by_its_hardware() -> None:
    python = ".".join(platform.python_version_tuple()[:2])
    described = kind(
        cores=2,
        architecture="x86_64",
        processor="AMD EPYC",
        memory_bytes=8 << 30,
        system="Linux",
        mlx="0.32.4 on the CPU",
    )
    assert described == f"2-core x86-64 (AMD EPYC), 8 GB, Linux, MLX 0.32.4 on the CPU, Python {python}"


def test_an_unknown_processor_is_left_out() -> None:
    described = kind(
        cores=8,
        architecture="arm64",
        processor="",
        memory_bytes=16 << 30,
        system="Darwin",
        mlx="1 on the GPU",
    )
    assert described.startswith("8-core arm64, 16 GB, macOS, MLX 1 on the GPU")


def test_the_host_name_is_not_published() -> None:
    assert platform.node() not in machine()
