"""The LoRAs in the settings, added to the transformer when it is loaded.

A LoRA is merged into unquantized weights, and then costs nothing. Beside quantized weights it stays
separate, because most of its values are smaller than one step of 4 bits.

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
    """Add *loras* to *transformer*, which was filled from *weights*.

    Raises ``LoadError`` for a file that can't be read or has no layer of this transformer.
    """
    for lora in loras:
        if is_folder(lora.path) and not Path(lora.path).is_file():
            raise LoadError(f"loras: {lora.path}: file not found")
    dense = weights.dense_component("transformer")
    output = io.StringIO()  # mflux prints to standard output
    try:
        with contextlib.redirect_stdout(output):
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
        for line in filter(None, map(str.strip, output.getvalue().splitlines())):
            log.info("mflux: %s", line)
