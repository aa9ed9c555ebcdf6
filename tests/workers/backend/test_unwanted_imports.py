"""A worker never imports torch, even if it is installed: it would cost seconds and memory for nothing.

The torch of these tests is a package that leaves a trace when it is imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path

import pytest

from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, ask
from tests.workers.backend.test_runtime import CHAT_AND_GENERATE, run
from tests.workers.conftest import MODELS
from tests.workers.test_process import CAPTION
from tests.workers.test_standby import standing_by
from workers.backend.unwanted_imports import Without

LOOKS_FOR_TORCH = """
import json
from transformers.utils import is_torch_available
print(json.dumps(is_torch_available()))
"""


class InstalledTorch:
    """A folder of packages with torch."""

    def __init__(self, folder: Path) -> None:
        self.imported = folder / "imported"
        self.environment = {"PYTHONPATH": str(folder)}
        for name in ("torch", "torchvision"):
            package, metadata = folder / name, folder / f"{name}-2.15.0.dist-info"
            package.mkdir(parents=True)
            metadata.mkdir()
            (metadata / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.15.0\n"
            )
            (package / "__init__.py").write_text(
                f"open({str(self.imported)!r}, 'a').write('{name}\\n')\n__version__ = '2.15.0'\n"
            )


def test_all_but_hidden_libraries_are_found() -> None:
    finder = Without(PathFinder, frozenset({"wave", "xml"}))
    assert finder.find_spec("wave") is None
    assert finder.find_spec("xml.dom") is None
    assert finder.find_spec("sndhdr_of_ours") is None
    assert finder.find_spec("json") is not None


@pytest.mark.mlx
@pytest.mark.process
def test_engines_never_import_an_installed_torch(tmp_path: Path) -> None:
    torch = InstalledTorch(tmp_path)
    # The trap works: transformers takes this package for torch, and importing it leaves the trace.
    assert run(LOOKS_FOR_TORCH, **torch.environment) is True
    assert run("import torch; print(torch.__version__[0])", **torch.environment) == 2
    assert torch.imported.read_text() == "torch\n"
    torch.imported.unlink()

    found = "import importlib.util, sys\n"
    found += "print(json.dumps([importlib.util.find_spec('torch'), 'torch' in sys.modules]))"
    assert run(CHAT_AND_GENERATE + found, str(MODELS), **torch.environment) == [None, False]
    assert not torch.imported.exists()


@pytest.mark.mlx
@pytest.mark.process
def test_a_worker_never_imports_an_installed_torch(tmp_path: Path) -> None:
    torch = InstalledTorch(tmp_path / "packages")
    # A standby of both kinds imports the libraries of all families.
    with standing_by("vlm,image", tmp_path, **torch.environment) as standby:
        standby.logged("standby ready", within_s=120)
        standby.assign()
        standby.watch_until_ready()
        answer = standby.post("/v1/chat/completions", ask(RED_CIRCLE, CAPTION)).json()
        assert answer["choices"][0]["message"]["content"] == RED_CIRCLE_CAPTION
    assert not torch.imported.exists()


@pytest.mark.process
def test_a_torch_that_is_already_imported_is_kept(tmp_path: Path) -> None:
    torch = InstalledTorch(tmp_path)
    (tmp_path / "torch" / "cuda.py").touch()
    code = (
        "import json, torch, sys\nfrom workers.backend import unwanted_imports as unwanted\n"
        "unwanted.hide()\nunwanted.hide()\n"
        "import torch.cuda, importlib.util\n"
        "print(json.dumps(['torch.cuda' in sys.modules, importlib.util.find_spec('torchvision')]))"
    )
    assert run(code, **torch.environment) == [True, None]


def test_installed_packages_are_still_listed() -> None:
    before = list(sys.meta_path)
    try:
        sys.meta_path[:] = [Without(f, frozenset({"torch"})) if f is PathFinder else f for f in before]
        assert version("transformers")
    finally:
        sys.meta_path[:] = before
