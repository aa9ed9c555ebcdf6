"""The set-up says in one line what is missing and how to get it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from scripts import setup

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.mark.process
def test_a_python_without_venv_is_told_the_one_apt_line(tmp_path: Path) -> None:
    debian = tmp_path / "python3"  # as Debian's python3 without python3-venv
    debian.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) echo 3.11;; esac\n')
    debian.chmod(0o755)
    with pytest.raises(setup.CannotSetUp, match=r"apt-get install python3\.11-venv"):
        setup.check_venv_module(str(debian))


def test_a_full_disk_is_told_with_both_figures() -> None:
    with pytest.raises(setup.CannotSetUp, match=r"0\.5 GB are free .* 2\.0 GB are needed"):
        setup.check_disk("host", 0.5)
    setup.check_disk("host", 5.0)


def test_the_script_can_be_read_by_a_python_that_is_too_old() -> None:
    ast.parse((ROOT / "scripts" / "setup.py").read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_a_lock_has_versions_and_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    pins = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert pins
    assert all("==" in pin for pin in pins)
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
    assert "--index" not in text


def test_the_mac_gets_metal_and_linux_no_cuda() -> None:
    text = (ROOT / "requirements" / "host.lock").read_text()
    pins = {line.split("==")[0]: line for line in text.splitlines() if "==" in line and line[0] != " "}
    assert "linux" not in pins["mlx-metal"]
    assert "darwin" not in pins["mlx-cpu"]
    assert not [name for name in pins if name.startswith(("nvidia", "mlx-cuda"))]
    assert pins["mlx"].split()[0] == "mlx==0.32.4"
    assert pins["mlx-vlm"].split()[0] == "mlx-vlm==0.7.10"
    assert pins["mflux"].split()[0] == "mflux==0.24.0"


def test_no_lock_names_torch() -> None:
    for lock in LOCKS:
        names = [line.split("==")[0] for line in lock.read_text().splitlines() if "==" in line]
        assert not [name for name in names if "torch" in name or name in ("sympy", "networkx")], lock


def test_the_command_line_s_lock_is_a_part_of_the_host_s() -> None:
    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
        return {line.split()[0] for line in lines if line and line[0] not in " #"}

    assert pins("gateway") < pins("cli") < pins("host")


def test_the_gateway_s_lock_holds_no_model_library() -> None:
    text = (ROOT / "requirements" / "gateway.lock").read_text()
    assert not [n for n in ("mlx", "torch", "numpy", "pillow", "psutil") if f"\n{n}==" in text]
