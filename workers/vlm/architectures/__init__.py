"""The model architectures: for each, how to recognize it and the module of its preprocessing.

Rules: importing this package imports neither MLX nor mlx-vlm; ``load`` imports the architecture's
module, on the model thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from contracts.settings.models import VlmSettings
from workers.vlm.files import is_moondream
from workers.vlm.prompt import Architecture


@dataclass(frozen=True, slots=True)
class Source:
    """*module* and *name*: a class with the interface ``Architecture``, made from the model, the
    processor and *options*.

    *matches* gets the checkpoint's config.json and the name of the processor's class.
    """

    module: str
    name: str
    matches: Callable[[dict[str, Any], str], bool]
    options: Callable[[VlmSettings], dict[str, Any]] = lambda settings: {}


def _image_prefix(settings: VlmSettings) -> dict[str, Any]:
    prefix = settings.image_prefix
    return {"bidirectional": None if prefix is None else prefix == "bidirectional"}


# The first match counts.
SOURCES = (
    Source(
        "workers.vlm.architectures.moondream",
        "Moondream",
        lambda config, processor: is_moondream(config),
        _image_prefix,
    ),
    Source(
        "workers.vlm.architectures.templated",
        "Qwen",
        lambda config, processor: processor == "Qwen2_5_VLProcessor",
    ),
    Source("workers.vlm.architectures.templated", "Templated", lambda config, processor: True),
)


def load(config: dict[str, Any], model: Any, processor: Any, settings: VlmSettings) -> Architecture:
    """The architecture of the checkpoint with this *config*; *model* and *processor* are loaded."""
    name = type(processor).__name__
    source = next(source for source in SOURCES if source.matches(config, name))
    made: Architecture = getattr(import_module(source.module), source.name)(
        model, processor, **source.options(settings)
    )
    return made
