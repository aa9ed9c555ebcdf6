"""Which modules may import which libraries, from the source and in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ROOT / "workers"
MODULES = sorted(WORKERS.rglob("*.py"))
HEAVY = {"mlx", "mlx_vlm", "mlx_lm", "mflux", "transformers", "torch", "numpy", "cv2"}
# The modules and folders that may import each library.
ALLOWED = {
    "mlx_vlm": {"vlm/engine.py", "vlm/batch.py", "vlm/architectures"},
    "mflux": {"image/engine.py", "image/steps.py", "image/families"},
    "mlx": {
        *("backend", "image/engine.py", "image/families", "image/steps.py", "vlm/architectures"),
        *("vlm/batch.py", "vlm/engine.py", "vlm/kv_cache.py", "vlm/runner.py", "vlm/sampler.py"),
    },
    "huggingface_hub": {"hub"},
    "llguidance": {"vlm/grammar.py"},
    "PIL": {
        *("engine.py", "image", "serving/image_codec.py"),
        *("vlm/chat_template.py", "vlm/engine.py", "vlm/prompt.py", "vlm/routes.py"),
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
def test_each_library_is_imported_by_its_modules_only(package: str) -> None:
    importers = {file.relative_to(WORKERS) for file in MODULES if package in imports(file)}
    allowed = ALLOWED[package]
    assert {
        str(file)
        for file in importers
        if not {str(file), *(str(folder) for folder in file.parents)} & allowed
    } == set()


@pytest.mark.process
def test_nothing_heavy_is_imported_before_the_model_thread_runs() -> None:
    code = (
        "import sys, workers.__main__, workers.vlm.engine, workers.image.engine\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


def test_no_module_is_long() -> None:
    lengths = {str(file.relative_to(WORKERS)): len(file.read_text().splitlines()) for file in MODULES}
    assert {name for name, length in lengths.items() if length > 330} == set()
