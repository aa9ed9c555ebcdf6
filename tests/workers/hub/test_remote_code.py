"""Python files in a checkpoint's folder never run, unless the settings trust them.

A file that runs leaves a marker.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.conftest import MODELS

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 240
LOAD = """
import json, sys
from contracts.settings.models import VlmSettings
from workers.engine import LoadError
from workers.vlm.engine import VlmEngine
trusted, *folders = sys.argv[1:]
for folder in folders:
    settings = VlmSettings(
        kind="vlm", path=folder, port=1, memory_gb=1, trust_remote_code=trusted == "trusted"
    )
    try:
        VlmEngine("a", settings).load(lambda phase, detail, download=None: None)
        print("loaded")
    except LoadError as exc:
        print(exc)
"""
AUTO_MAP = {
    "AutoConfig": "evil.Thing",
    "AutoProcessor": "evil.Thing",
    "AutoImageProcessor": "evil.Thing",
    "AutoTokenizer": ["evil.Thing", None],
}
CLASSES = ("processor_class", "tokenizer_class", "image_processor_type")


def edited(folder: Path, pattern: str, change: Callable[[dict[str, object]], None]) -> None:
    for file in folder.glob(pattern):
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))


def checkpoint(tmp_path: Path, model: str, name: str) -> Path:
    """A copy of *model* with a Python file that leaves a marker."""
    folder = tmp_path / name
    shutil.copytree(MODELS / model, folder)
    marker = tmp_path / f"{name}.ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'a').close()\nclass Thing: ...\n")
    return folder


def mapped(tmp_path: Path, model: str, name: str, pattern: str, *, nameless: bool = False) -> Path:
    """A checkpoint whose files *pattern* point to the code; *nameless*: they name no known class."""
    folder = checkpoint(tmp_path, model, name)

    def change(config: dict[str, object]) -> None:
        config["auto_map"] = AUTO_MAP
        for key in CLASSES if nameless else ():
            config.pop(key, None)

    edited(folder, pattern, change)
    return folder


def with_model_file(tmp_path: Path) -> Path:
    """A checkpoint whose model is a Python file in it, as mlx-vlm allows."""
    folder = checkpoint(tmp_path, "vlm-best", "model-file")
    edited(folder, "config.json", lambda config: config.update(model_file="evil.py"))
    return folder


def loads(folders: list[Path], *, trusted: bool = False) -> list[str]:
    """The result of loading each."""
    trust = "trusted" if trusted else "untrusted"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, trust, *map(str, folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return done.stdout.splitlines()


def ran(folder: Path) -> bool:
    return folder.with_name(f"{folder.name}.ran").exists()


@pytest.mark.process
@pytest.mark.mlx
def test_a_checkpoint_s_code_is_not_run(tmp_path: Path) -> None:
    fine = [
        mapped(tmp_path, "vlm-fast", "moondream-config", "config.json"),
        mapped(tmp_path, "vlm-fast", "moondream-tokenizer", "tokenizer_config.json"),
        mapped(tmp_path, "vlm-best", "qwen", "*config.json", nameless=True),
    ]
    refused = [
        mapped(tmp_path, "vlm-fast", "nameless", "*config.json", nameless=True),
        with_model_file(tmp_path),
    ]
    results = loads([*fine, *refused])
    assert not any(ran(folder) for folder in [*fine, *refused])
    # The code is not needed if transformers or mlx-vlm have a class.
    assert results[: len(fine)] == ["loaded"] * len(fine)
    for line, folder in zip(results[len(fine) :], refused, strict=True):
        assert line.startswith(f"models.a.path: {folder} needs its own Python code (")
        assert line.endswith("if you trust it, set models.a.trust_remote_code: true")


@pytest.mark.process
@pytest.mark.mlx
def test_it_runs_if_the_settings_trust_it(tmp_path: Path) -> None:
    folder = with_model_file(tmp_path)
    loads([folder], trusted=True)
    assert ran(folder)


GUARD = """
import importlib.util, sys
from pathlib import Path
from workers.hub import remote_code
folder, other = map(Path, sys.argv[1:])
remote_code.forbid(folder)
def execute(file):
    spec = importlib.util.spec_from_file_location("thing", file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
execute(other / "evil.py")
sys.path.insert(0, str(folder))
for attempt in (lambda: execute(folder / "evil.py"), lambda: __import__("evil")):
    try:
        attempt()
    except remote_code.Forbidden as exc:
        print(exc)
print(remote_code.refused())
"""


@pytest.mark.process
def test_python_of_a_forbidden_folder_can_not_be_reached(tmp_path: Path) -> None:
    for name in ("folder", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evil.py").write_text(f"print('{name} ran')\n")
    folder, other = tmp_path / "folder", tmp_path / "other"
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(folder), str(other)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    refusal = f"{folder}/evil.py is a checkpoint's code, which is not run"
    assert done.stdout.splitlines() == ["other ran", refusal, refusal, f"{folder}/evil.py"]


def test_a_folder_with_our_own_code_is_not_forbidden() -> None:
    from workers.hub import remote_code

    assert remote_code._holds_our_own(ROOT)
    assert remote_code._holds_our_own(Path(sys.prefix))
    assert not remote_code._holds_our_own(MODELS)


def test_transformers_checks_before_it_loads_a_checkpoint_s_code() -> None:
    """``remote_code`` replaces ``resolve_trust_remote_code``; all modules that load classes call it."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    loading, checking = set(), set()
    for file in Path(found.origin).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if re.search(
            r"import .*\bget_class_(from_dynamic_module|in_module)|^    get_class_in_module", text, re.M
        ):
            loading.add(file.stem)
            if "resolve_trust_remote_code(" in text:
                checking.add(file.stem)
    assert "configuration_auto" in checking
    # Pipelines, which are not used here. Review anything new.
    assert {name for name in loading - checking} <= {"__init__"}


def test_mlx_vlm_executes_a_checkpoint_s_file_at_one_place() -> None:
    found = importlib.util.find_spec("mlx_vlm")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    executing = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*.py")
        if "exec_module(" in file.read_text(encoding="utf-8")
    }
    assert executing == {"utils.py", "train.py"}
