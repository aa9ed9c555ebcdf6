"""Reads a checkpoint for mflux's networks, and refuses one that is not whole.

mflux puts in what a checkpoint holds and leaves the rest at random, without a word; so names and shapes
are compared first. Nothing is computed before that: MLX reads a file when a tensor of it is needed.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
Private steps of mflux 0.24.0 are used (tests/workers/test_library_contracts.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.weights.loading.loaded_weights import LoadedWeights, MetaData
from mflux.models.common.weights.loading.weight_applier import WeightApplier
from mflux.models.common.weights.loading.weight_definition import ComponentDefinition
from mflux.models.common.weights.loading.weight_loader import WeightLoader
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from workers.engine import LoadError

_NAMED = 5  # missing tensors that a message lists
PORTION_BYTES = 64 << 20  # of weights that are computed at once
_GROUP = 64  # values that share a scale in every quantized save of mflux's for these families

Shapes = dict[str, tuple[int, ...]]
Tree = Any  # of mx.array, as mlx nests parameters


@dataclass(frozen=True, slots=True)
class Part:
    """One network. *component*: mflux's name for it; *attribute*: of the model; *folder*: on disk."""

    component: str
    attribute: str
    folder: str
    text: bool = False  # only reads prompts


def read(folder: Path, definition: Any, parts: Sequence[Part]) -> Any:
    """mflux's ``LoadedWeights`` of all *parts*; raises ``LoadError`` for a folder of another layout."""
    for part in parts:
        if not any((folder / part.folder).glob("*.safetensors")):
            raise LoadError(
                f"there are no weights in {part.folder}/: neither a model that mflux saved nor one in "
                f"the layout of its authors (expected the folders {', '.join(p.folder for p in parts)})"
            )
    return WeightLoader.load(weight_definition=definition, model_path=str(folder))


def read_part(folder: Path, definition: Any, part: Part) -> Any:
    """``LoadedWeights`` of one part, read again from disk."""
    components = definition.get_components()
    (component,) = (c for c in components if c.name == part.component)
    saved = ComponentDefinition.save_subdirs(components)[part.component]
    tree, bits, version = WeightLoader._load_component(folder, component, None, saved)
    return LoadedWeights(
        components={part.component: tree},
        meta_data=MetaData(quantization_level=bits, mflux_version=version),
    )


def fill(
    networks: Mapping[str, nn.Module], weights: Any, bits: int | None, definition: Any
) -> int | None:
    """Put *weights* into *networks* (by component), quantized to *bits* unless they were saved so.

    Returns the bits that they have. Nothing is computed yet.
    """
    applied: int | None = WeightApplier.apply_and_quantize(
        weights=weights, quantize_arg=bits, weight_definition=definition, models=dict(networks)
    )
    return applied


def compute(network: nn.Module, portion: int = PORTION_BYTES) -> None:
    """Compute the weights of *network* now, about *portion* bytes at a time.

    One ``mx.eval`` of everything reads the sources of later layers while it quantizes earlier ones:
    3 GiB more than the result for FLUX.2 klein's transformer.
    """
    batch: list[mx.array] = []
    size = 0
    for _, value in tree_flatten(network.parameters()):
        batch.append(value)
        size += value.nbytes
        if size >= portion:
            mx.eval(batch)
            batch, size = [], 0
    mx.eval(batch)


def check(
    what: str,
    folder: Path,
    weights: Any,
    networks: Mapping[Part, nn.Module],
    optional: AbstractSet[str] = frozenset(),
) -> None:
    """Raise ``LoadError`` unless *weights* have every tensor of *networks* in its shape."""
    problems: list[str] = []
    for part, network in networks.items():
        held = shapes(weights.components[part.component])
        found = faults(shapes(network.parameters()), held, optional)
        found += [f"{key} is missing" for key in sorted(_indexed(folder / part.folder) - held.keys())]
        problems += [f"{part.folder}: {fault}" for fault in dict.fromkeys(found)]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise LoadError(f"the checkpoint doesn't fit {what}: {'; '.join(problems[:_NAMED])}{more}")


def faults(expected: Shapes, held: Shapes, optional: AbstractSet[str]) -> list[str]:
    """What is wrong with the tensors *held* for a network that has those *expected*."""
    found = []
    for name, shape in expected.items():
        module = name.removesuffix(".weight")
        if name not in held:
            if name not in optional:
                found.append(f"{name} is missing")
        elif name.endswith(".weight") and f"{module}.scales" in held:
            if f"{module}.biases" not in held:
                found.append(f"{module}.biases is missing")
            elif not _packs(held[name], held[f"{module}.scales"], shape):
                found.append(f"{name} has the shape {held[name]}, not a quantized {shape}")
        elif held[name] != shape:
            found.append(f"{name} has the shape {held[name]}, not {shape}")
    return found


def _packs(weight: tuple[int, ...], scales: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Is *weight* of a quantized layer (32 bits hold several values) what *full* becomes?"""
    if weight[:-1] != full[:-1] or scales[:-1] != full[:-1] or not scales[-1]:
        return False
    return weight[-1] * 32 % full[-1] == 0 and full[-1] % scales[-1] == 0


def shapes(tree: Tree) -> Shapes:
    return {
        str(name): tuple(value.shape)
        for name, value in tree_flatten(tree)
        if isinstance(value, mx.array)
    }


def _indexed(folder: Path) -> set[str]:
    """The tensors that mflux's own index of a saved component names; none for other layouts."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = index["weight_map"]
        if not (folder / "0.safetensors").is_file():  # mflux numbers its shards
            return set()
        return set(shards)
    except (OSError, ValueError, LookupError, TypeError):
        return set()


# --- small checkpoints -----------------------------------------------------------------------------


class TinyConfig(dict[str, Any]):
    """What ``tiny.json`` says; a word that is not in it is one of another family."""

    def __missing__(self, key: str) -> Any:
        raise LoadError(f"tiny.json says no {key!r}: it is of a model of another family")


def tiny_config(folder: Path) -> TinyConfig | None:
    """``tiny.json``: what the weights of a small checkpoint can't tell; None: a full-size one.

    The demo's and the tests' checkpoints have mflux's layout and other dimensions than the families'.
    Where this file lies beside the weights, and only there, dimensions are taken from both.
    """
    file = folder / "tiny.json"
    if not file.is_file():
        return None
    return TinyConfig(json.loads(file.read_text(encoding="utf-8")))


def take_shapes(network: nn.Module, weights: Tree) -> None:
    """Give every parameter of *network* the shape that the checkpoint has; missing ones stay."""
    held = dict(tree_flatten(weights))

    def shaped(name: str, value: mx.array) -> mx.array:
        stored = held.get(name)
        if stored is None or stored.shape == value.shape:
            return value
        scales = held.get(name.removesuffix("weight") + "scales")
        if scales is not None:
            return mx.zeros((*stored.shape[:-1], scales.shape[-1] * _GROUP))
        return mx.zeros(stored.shape)

    network.update(
        tree_unflatten([(name, shaped(name, v)) for name, v in tree_flatten(network.parameters())])
    )


def to_float32(network: nn.Module) -> None:
    """mflux alone would mix bf16 weights with fp32 masks; and small networks drown in bf16."""
    network.update(
        tree_map(
            lambda value: value.astype(mx.float32) if value.dtype == mx.bfloat16 else value,
            network.parameters(),
        )
    )
