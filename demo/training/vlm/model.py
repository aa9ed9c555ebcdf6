"""The twin of a checkpoint folder, with fresh random weights."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from demo.training.vlm.moondream import Moondream
from demo.training.vlm.qwen import Qwen

_LAST_OF_A_BRANCH = ("o_proj.weight", "proj.weight", "down_proj.weight", "fc2.weight")


def build(folder: str | Path) -> Qwen | Moondream:
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    twin = Qwen if config["model_type"] == "qwen2_5_vl" else Moondream
    model = twin(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=_spread(name, parameter[0].numel()))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


def _spread(name: str, fan_in: int) -> float:
    """Standard deviation: by fan-in, smaller where a block writes to the residual stream."""
    is_patch = "patch" in name
    if ("embed" in name and not is_patch) or "wte" in name or "pos_emb" in name:
        return 0.06
    spread = float(fan_in**-0.5)
    if name.endswith(_LAST_OF_A_BRANCH) and not is_patch and "proj_mlp" not in name:
        spread *= 0.35
    return spread
