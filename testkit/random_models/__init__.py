"""Writes checkpoints with random weights, in mflux's own layout and with its own saver.

    python -m testkit.random_models FAMILY FOLDER [--tiny] [--bits 4]

At full size they have the true shapes of a family: they generate noise, at the time and memory cost of
the real model. Tests use ``--tiny`` ones (a few million weights, with a ``tiny.json``) with mflux's
true classes. Needs mlx and mflux, and nothing from the network.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from testkit.random_models.flux1 import flux1
from testkit.random_models.klein_z_image import klein, z_image

_KEPT = Path(__file__).resolve().parents[2] / ".cache" / "checkpoints"
_MAKERS = {"flux1": flux1, "flux2": klein, "z": z_image}


def write(folder: Path, family: str, *, tiny: bool = False, bits: int | None = None) -> None:
    """Write a checkpoint of *family* to *folder*, replacing it; quantized to *bits* if given."""
    import mlx.core as mx  # noqa: TID251 - writes the engine's files
    import mlx.nn as nn  # noqa: TID251
    from mflux.models.common.weights.saving.model_saver import ModelSaver  # noqa: TID251
    from mlx.utils import tree_flatten, tree_unflatten  # noqa: TID251

    mx.random.seed(0)
    model, definition, sizes = _MAKERS[family.partition("-")[0]](family, tiny)
    for component in definition.get_components():
        network = getattr(model, component.model_attr or component.name)
        cast = [
            (name, value if name.endswith("inv_freq") else value.astype(mx.bfloat16))  # as in mflux
            for name, value in tree_flatten(network.parameters())
        ]
        network.update(tree_unflatten(cast))
        if bits:
            nn.quantize(network, group_size=64, bits=bits, class_predicate=_quantizable)
        for _, module in network.named_modules():  # one by one: FLUX.1 at once would take 34 GB
            mx.eval(module.parameters() if not module.children() else [])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ModelSaver.save_model(model=model, bits=bits, base_path=str(folder), weight_definition=definition)
    if tiny:
        (folder / "tiny.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def kept(family: str, bits: int | None = None) -> Path:
    """The folder of the tiny checkpoint that this module writes with the installed libraries."""
    made = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        made.update(file.read_bytes())
    for library in ("mlx", "mflux", "transformers", "tokenizers"):
        made.update(f"{library} {importlib.metadata.version(library)}\n".encode())
    return _KEPT / made.hexdigest()[:16] / f"{family}-{bits or 16}" / family


def keep(draft: Path, folder: Path) -> None:
    """Move a complete checkpoint to *folder* in one step, unless one exists there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    near = Path(tempfile.mkdtemp(dir=folder.parent)) / folder.name
    shutil.copytree(draft, near)
    with suppress(OSError):  # another process was faster
        near.rename(folder)
    shutil.rmtree(near.parent)


def networks(family: str) -> tuple[Any, Any]:
    """The full-size networks of *family*, not evaluated, and mflux's weight definition."""
    model, definition, _ = _MAKERS[family.partition("-")[0]](family, False)
    return model, definition


def _quantizable(_: str, module: Any) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 64 == 0
