"""Set-up reports a missing requirement in one line with the fix; the locks are complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from scripts import setup

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.mark.process
def test_a_python_without_venv_gets_the_apt_command(tmp_path: Path) -> None:
    debian = tmp_path / "python3"  # like Debian's python3 without python3-venv
    debian.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) echo 3.11;; esac\n')
    debian.chmod(0o755)
    with pytest.raises(setup.CannotSetUp, match=r"apt-get install python3\.11-venv"):
        setup.check_venv_module(str(debian))


def test_a_full_disk_is_reported_with_both_figures() -> None:
    with pytest.raises(setup.CannotSetUp, match=r"0\.5 GB are free .* 2\.0 GB are required"):
        setup.check_disk("host", 0.5)
    setup.check_disk("host", 5.0)


def test_an_old_python_can_parse_the_script() -> None:
    ast.parse((ROOT / "scripts" / "setup.py").read_text(), feature_version=(3, 7))


def test_a_lock_has_versions_and_hashes_and_no_url() -> None:
    for lock in LOCKS:
        text = lock.read_text()
        pins = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert pins
        assert all("==" in pin for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text
        assert "--index" not in text


def test_the_lock_has_metal_for_the_mac_and_no_cuda_for_linux() -> None:
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


def test_each_lock_contains_the_smaller_ones() -> None:
    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
        return {line.split()[0] for line in lines if line and line[0] not in " #"}

    assert pins("gateway") < pins("cli") < pins("host")


def test_the_gateway_s_lock_has_no_model_library() -> None:
    text = (ROOT / "requirements" / "gateway.lock").read_text()
    assert not [n for n in ("mlx", "torch", "numpy", "pillow", "psutil") if f"\n{n}==" in text]
