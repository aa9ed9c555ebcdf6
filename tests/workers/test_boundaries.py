"""Who may import what, read from the source and proven in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "workers").glob("*.py"))
FAMILIES = sorted((ROOT / "workers" / "families").glob("*.py"))
HEAVY = {"mlx", "mlx_vlm", "mlx_lm", "mflux", "transformers", "torch", "numpy", "cv2"}
ALLOWED = {
    "mlx_vlm": {"vlm", "batch", "templated"},
    "mflux": {"image"},
    "mlx": {
        *("vlm", "image", "steps", "sampling", "runtime"),
        *("batch", "caches", "cuda", "moondream", "schedule", "templated"),
    },
    "huggingface_hub": {"hub"},
    "llguidance": {"grammar"},
    "PIL": {
        "files",
        "masks",
        "opaque",
        "media",
        "engine",
        "prompting",
        "vlm",
        "image",
        "chat",
        "images",
        "reading",
        "steps",
    },
}


def imports(file: Path) -> set[str]:
    """All packages that *file* imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_each_library_has_its_importers(package: str) -> None:
    assert {file.stem for file in MODULES if package in imports(file)} <= ALLOWED[package]


def test_no_other_tier_is_imported() -> None:
    assert not any({"gateway", "manager", "demo"} & imports(file) for file in MODULES + FAMILIES)


@pytest.mark.process
def test_nothing_heavy_is_imported_before_the_model_thread_runs() -> None:
    code = (
        "import sys, workers.__main__, workers.vlm, workers.image\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


def test_no_module_is_long() -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in MODULES + FAMILIES}
    assert {name for name, length in lengths.items() if length > 330} == set()
