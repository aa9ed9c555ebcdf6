"""The image models: FLUX.1-schnell as mflux 0.2.0 saved it, klein and FLUX.1-dev as published.

Names and shapes come from the classes that save or read them: those of mflux 0.2.0, whose wheel is
fetched at run time, and the mappings of today's mflux. Nothing is evaluated. ``small`` ones keep the
layout and the true widths with one block of each kind; a ``tiny.json`` lets the product run them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rehearsal import tokenizers
from tests.rehearsal.synthetic import Blob, Tensor, Text, Weights, sharded, split

_SAVED_SHARD = 2 << 30
_FEED = 12288
_ATTRIBUTES = Text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
_FIRST_ONLY = re.compile(r"(?:blocks|layers|transformer_blocks)\.(\d+)\.")

# Prints the parameters of mflux 0.2.0's FLUX.1 after its own quantization, as
# {component: {name: [type, shape]}}.
_OLD_SHAPES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mlx.nn as nn
from mlx.utils import tree_flatten
from mflux.config.model_config import ModelConfig
from mflux.models.text_encoder.clip_encoder.clip_encoder import CLIPEncoder
from mflux.models.text_encoder.t5_encoder.t5_encoder import T5Encoder
from mflux.models.transformer.transformer import Transformer
from mflux.models.vae.vae import VAE
linear = lambda _, m: isinstance(m, nn.Linear)
wide = lambda _, m: isinstance(m, nn.Linear) and len(m.weight[1]) > 64
made = {
    "vae": (VAE(), linear),
    "transformer": (Transformer(ModelConfig.from_alias("schnell")), wide),
    "text_encoder": (CLIPEncoder(), linear),
    "text_encoder_2": (T5Encoder(), linear),
}
shapes = {}
for name, (network, fits) in made.items():
    nn.quantize(network, class_predicate=fits, group_size=64, bits=4)
    shapes[name] = {
        key: ["U32" if str(value.dtype).endswith("uint32") else "BF16", list(value.shape)]
        for key, value in tree_flatten(network.parameters())
    }
print(json.dumps(shapes))
"""


def schnell(packages: Path, *, small: bool = False) -> dict[str, Blob]:
    """The files of madroid's checkpoint: numbered shards without an index, slow tokenizers."""
    files: dict[str, Blob] = {
        "README.md": Text("---\nlicense: apache-2.0\n---\nmflux 4bit\n"),
        ".gitattributes": _ATTRIBUTES,
        **_below("tokenizer", tokenizers.clip(packages)),
        **_below("tokenizer_2", tokenizers.t5(packages)),
    }
    for component, tensors in _old_tensors(packages).items():
        if small:
            tensors = {name: tensor for name, tensor in tensors.items() if _shallow(component, name)}
        for number, shard in enumerate(split(tensors, _SAVED_SHARD)):
            files[f"{component}/{number}.safetensors"] = Weights(shard, {"quantization_level": "4"})
    if small:
        files["tiny.json"] = Text.json(_TINY_FLUX1)
    return files


# The true dimensions with one block of each kind and short prompts.
_TINY_FLUX1 = {
    "dim": 3072, "heads": 24, "head_dim": 128, "axes_dim": [16, 56, 56], "mlp": _FEED,
    "double": 1, "single": 1,
    "t5_dim": 4096, "t5_heads": 64, "t5_kv": 64, "t5_ff": 10240, "t5_layers": 1,
    "clip_dim": 768, "clip_heads": 12, "clip_layers": 1,
    "vae_groups": 32, "max_t5": 16, "max_clip": 77,
}  # fmt: skip


def _shallow(component: str, name: str) -> bool:
    if component == "vae":
        return True
    found = _FIRST_ONLY.search(name)
    return found is None or found[1] == "0"


def _old_tensors(packages: Path) -> dict[str, dict[str, Tensor]]:
    wheel = tokenizers.from_pypi(tokenizers.OLD_MFLUX, packages)
    kept = packages / "mflux-0.2.0.json"
    if not kept.exists():
        run = subprocess.run(
            [sys.executable, "-c", _OLD_SHAPES, str(wheel)],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        kept.write_text(run.stdout)
    shapes = json.loads(kept.read_text())
    return {
        component: {name: _saved(component, name, *rule) for name, rule in rules.items()}
        for component, rules in shapes.items()
    }


def _saved(component: str, name: str, dtype: str, shape: list[int]) -> Tensor:
    if component == "transformer" and ".ff" in name:
        # Its classes start with narrower layers; the weights replaced them before the quantization.
        if "linear1" in name:
            shape = [_FEED, *shape[1:]]
        elif name.endswith("linear2.weight"):
            shape = [shape[0], _FEED // 8 if dtype == "U32" else _FEED]
        elif name.endswith(("linear2.scales", "linear2.biases")):
            shape = [shape[0], _FEED // 64]
    value: float | None = None
    if name.endswith(".scales"):
        value = 0.003
    elif name.endswith(".biases"):
        value = -0.0225
    elif name.endswith("bias"):
        value = 0.0
    elif "norm" in name and len(shape) == 1:
        value = 1.0
    return Tensor(dtype, tuple(shape), value=value)


# --- as published ------------------------------------------------------------------------------------


def klein(packages: Path, *, overrides: Mapping[str, Any] | None = None) -> dict[str, Blob]:
    """FLUX.2-klein-4B: 16 bit, Qwen3's tokenizer. *overrides*: the ``tiny.json`` of a small one."""
    files = _published("flux2-klein-4b", overrides)
    template = tokenizers.qwen3_template(packages)
    tokenizer = tokenizers.qwen(packages, last=151668, processor="Qwen3Processor", template=template)
    files |= _below("tokenizer", {**tokenizer, "chat_template.jinja": Text(template)})
    files["model_index.json"] = Text.json({"_class_name": "Flux2KleinPipeline"})
    files["LICENSE.md"] = Text("Apache-2.0\n")
    if overrides is not None:
        files["tiny.json"] = Text.json(dict(overrides))
    return files


# Three of 28 layers are read, so their number must stay; the text encoder is narrow instead.
TINY_KLEIN: dict[str, Any] = {
    "transformer": {"num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 3 * 256},
    "text_encoder": {
        "vocab_size": 151936, "hidden_size": 256, "num_hidden_layers": 28, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 512, "head_dim": 64,
    },
    "vae_groups": 32, "max_length": 64,
}  # fmt: skip


def dev_names() -> dict[str, Blob]:
    """FLUX.1-dev is gated: anybody may list its files; the rehearsal fetches none."""
    tensor = {"a": Tensor("BF16", (8,))}
    names = (
        "text_encoder/model",
        "text_encoder_2/model-00001-of-00002",
        "text_encoder_2/model-00002-of-00002",
        "transformer/diffusion_pytorch_model-00001-of-00003",
        "transformer/diffusion_pytorch_model-00002-of-00003",
        "transformer/diffusion_pytorch_model-00003-of-00003",
        "vae/diffusion_pytorch_model",
    )
    return {
        **{f"{name}.safetensors": Weights(tensor) for name in names},
        "model_index.json": Text.json({"_class_name": "FluxPipeline"}),
        "transformer/config.json": Text.json({"_class_name": "FluxTransformer2DModel"}),
        "README.md": Text("---\nlicense: other\n---\n"),
    }


def _published(family: str, overrides: Mapping[str, Any] | None) -> dict[str, Blob]:
    model, definition = _networks(family, overrides)
    files: dict[str, Blob] = {}
    for component in definition.get_components():
        network = getattr(model, component.model_attr or component.name)
        tensors = _renamed(network, component.mapping_getter())
        if "bn.running_mean" in tensors:
            tensors["bn.num_batches_tracked"] = Tensor("I64", (), value=0)
        text = component.hf_subdir.startswith("text_encoder")
        stem, limit = ("model", 4_970_000_000) if text else ("diffusion_pytorch_model", 9_900_000_000)
        shards = sharded(dict(sorted(tensors.items())), limit, stem=stem, metadata={"format": "pt"})
        shards["config.json"] = Text.json({"_class_name": component.name})
        files |= _below(component.hf_subdir, shards)
    return files


def _networks(family: str, overrides: Mapping[str, Any] | None) -> tuple[Any, Any]:
    from testkit import random_models

    if overrides is None:
        return random_models.networks(family)
    import copy
    from types import SimpleNamespace

    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251 - shapes only
    from mflux.models.flux2.flux2_initializer import Flux2Initializer  # noqa: TID251
    from mflux.models.flux2.weights.flux2_weight_definition import (  # noqa: TID251
        Flux2KleinWeightDefinition,
    )

    model = SimpleNamespace(
        model_config=copy.copy(ModelConfig.flux2_klein_4b()), small_text_encoder=False
    )
    model.model_config.transformer_overrides = overrides["transformer"]
    model.model_config.text_encoder_overrides = overrides["text_encoder"]
    Flux2Initializer._init_models(model)
    return model, Flux2KleinWeightDefinition


def _renamed(network: Any, mapping: Any) -> dict[str, Tensor]:
    """The parameters of mflux's *network* with their published names and shapes."""
    from mlx.utils import tree_flatten  # noqa: TID251 - shapes only

    rules = [(_pattern(rule.to_pattern), rule.from_pattern[0]) for rule in mapping]
    return {
        _theirs(name, rules): _theirs_shape(name, tuple(value.shape))
        for name, value in tree_flatten(network.parameters())
        if not name.endswith("inv_freq")
    }


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{([a-z_]+)\\\}", r"(?P<\1>\\d+)", re.escape(pattern)))


def _theirs(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in rules:
        if found := pattern.fullmatch(name):
            for key, number in found.groupdict().items():
                target = target.replace(f"{{{key}}}", number)
            return target
    raise LookupError(f"mflux reads no {name} from a published checkpoint")


def _theirs_shape(name: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 4:  # convolutions: channels last in MLX
        shape = (shape[0], shape[3], shape[1], shape[2])
    value: float | None = None
    if len(shape) == 1:
        value = 1.0 if name.endswith(("weight", "running_var")) else 0.0
    return Tensor("F32" if "bn." in name else "BF16", shape, value=value)


def _below(folder: str, files: Mapping[str, Blob]) -> dict[str, Blob]:
    return {f"{folder}/{name}": blob for name, blob in files.items()}
