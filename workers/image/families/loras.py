"""LoRAs of the config, added to a transformer when it is loaded.

Into weights that were not quantized when they were saved they are baked, and cost nothing after; beside
quantized ones they stay, as most of a LoRA is smaller than a step of 4 bits.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mflux.models.common.lora.mapping.lora_loader import LoRALoader

from contracts.settings.models import LoraSettings, is_folder
from workers.engine import LoadError
from workers.serving.model_thread import first_line

log = logging.getLogger(__name__)


def apply(transformer: nn.Module, loras: Sequence[LoraSettings], mapping: Any, weights: Any) -> None:
    """Add *loras* to *transformer*, whose weights are those of *weights*.

    Raises ``LoadError`` for a file that can't be read or has nothing for this transformer.
    """
    for lora in loras:
        if is_folder(lora.path) and not Path(lora.path).is_file():
            raise LoadError(f"loras: {lora.path}: there is no such file")
    dense = weights.dense_component("transformer")
    told = io.StringIO()  # mflux prints what it does
    try:
        with contextlib.redirect_stdout(told):
            LoRALoader.load_and_apply_lora(
                lora_mapping=mapping,
                transformer=transformer,
                lora_paths=[lora.path for lora in loras],
                lora_scales=[lora.scale for lora in loras],
                bake_lora=dense is not None,
                dense_weights=dense,
            )
    except Exception as exc:
        raise LoadError(f"loras: {type(exc).__name__}: {first_line(exc)}") from exc
    finally:
        for line in filter(None, map(str.strip, told.getvalue().splitlines())):
            log.info("mflux: %s", line)
