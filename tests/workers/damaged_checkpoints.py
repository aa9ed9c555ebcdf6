"""Copies of the demo checkpoints with some part missing or damaged, and the error of their load."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.workers.conftest import MODELS, image_settings, vlm_settings
from workers.engine import LoadError

Change = Callable[[dict[str, Any]], None]


def copy_of(name: str, folder: Path) -> Path:
    """A writable copy of checkpoint *name* in *folder*."""
    target = folder / name
    shutil.copytree(MODELS / name, target)
    for file in target.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return target


def without(*names: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        for name in names:
            del tensors[name]

    return change


def without_matching(pattern: str) -> Change:
    """Removes the tensors whose names match the regular expression *pattern*."""

    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if re.search(pattern, name)]:
            del tensors[name]

    return change


def transposed(name: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].T

    return change


def rewritten(file: Path, change: Change) -> None:
    import mlx.core as mx  # noqa: TID251 - writes the files that the engines read

    loaded: Any = mx.load(str(file), return_metadata=True)
    tensors, metadata = loaded
    change(tensors)
    mx.eval(tensors)
    partial = file.with_name("new.safetensors")
    mx.save_safetensors(str(partial), tensors, metadata)
    partial.replace(file)


def load_error(engine: Any) -> str:
    """The message of the ``LoadError`` that *engine* raises."""
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(LoadError) as caught:
            thread.submit(engine.load, lambda phase, detail: None).result()
        thread.submit(engine.close).result()
    message = str(caught.value)
    assert "\n" not in message
    return message


def vlm_refusal(folder: Path) -> str:
    from workers.vlm.engine import VlmEngine

    return load_error(VlmEngine("vlm", vlm_settings(folder)))


def image_refusal(folder: Path, **fields: Any) -> str:
    from workers.image.engine import MfluxEngine

    return load_error(MfluxEngine("image", image_settings(folder, **fields)))
