"""Loads a FLUX.1 checkpoint into mflux's ``Flux1``, and refuses one that is not whole.

mflux puts in what a checkpoint holds and leaves the rest at random, without a word; so names and shapes
are compared first. The demo's small checkpoint has mflux's layout and other dimensions than FLUX.1's,
which mflux writes as literals: where ``tiny.json`` lies beside the weights, and only there, they are
taken from the weights and from that file (``_fit``), by the same maths.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
Private steps of mflux 0.24.0 are used (tests/workers/test_library_contracts.py).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the image engine
import mlx.nn as nn  # noqa: TID251
from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
from mflux.models.flux.flux_initializer import FluxInitializer  # noqa: TID251
from mflux.models.flux.model.flux_text_encoder.clip_encoder.clip_text_model import (  # noqa: TID251
    CLIPTextModel,
)
from mflux.models.flux.model.flux_text_encoder.t5_encoder.t5_self_attention import (  # noqa: TID251
    T5SelfAttention,
)
from mflux.models.flux.model.flux_transformer.ada_layer_norm_zero import (  # noqa: TID251
    AdaLayerNormZero,
)
from mflux.models.flux.variants.txt2img.flux import Flux1  # noqa: TID251
from mlx.utils import tree_flatten, tree_map, tree_unflatten  # noqa: TID251

from contracts.settings import ImageSettings
from workers.engine import LoadError

log = logging.getLogger(__name__)

# component of mflux -> (attribute of Flux1, folder in a checkpoint)
_PARTS = {
    "vae": ("vae", "vae"),
    "transformer": ("transformer", "transformer"),
    "t5_encoder": ("t5_text_encoder", "text_encoder_2"),
    "clip_encoder": ("clip_text_encoder", "text_encoder"),
}
# mflux 0.16 to 0.21 saved none, and zero is right for those models (mflux sets it).
_OPTIONAL = {"norm_out.linear.bias"}
_NAMED = 5  # missing tensors that a message lists

Shapes = dict[str, tuple[int, ...]]


def load(folder: Path, settings: ImageSettings) -> Flux1:
    """The model of *folder*, evaluated. Raises ``LoadError`` for a checkpoint that isn't whole."""
    tiny = _tiny_config(folder)
    config = ModelConfig.dev() if settings.family == "flux1-dev" else ModelConfig.schnell()
    if tiny is not None:
        ModelConfig.precision = mx.float32  # small networks drown in bf16's rounding
    model: Any = Flux1.__new__(Flux1)
    nn.Module.__init__(model)
    FluxInitializer._init_config(model, config)
    weights = FluxInitializer._load_weights(str(folder))
    FluxInitializer._init_tokenizers(model, str(folder), config)
    _check_blocks(weights, tiny)
    FluxInitializer._init_models(model, config, weights)
    if tiny is not None:
        _fit(model, weights.components, tiny)
    problems: list[str] = []
    for name, (attribute, subfolder) in _PARTS.items():
        held = _shapes(weights.components[name])
        expected = _shapes(getattr(model, attribute).parameters())
        found = faults(expected, held, _OPTIONAL if tiny is None else set())
        found += [f"{key} is missing" for key in sorted(_indexed(folder / subfolder) - held.keys())]
        problems += [f"{subfolder}: {fault}" for fault in dict.fromkeys(found)]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise LoadError(f"the checkpoint doesn't fit FLUX.1: {'; '.join(problems[:_NAMED])}{more}")
    FluxInitializer._apply_weights(model, weights, settings.quantize)
    FluxInitializer._apply_lora(model, None, None, True, weights)
    if tiny is not None:
        _to_float32(model)
    mx.eval([value for _, value in tree_flatten(model.parameters())])
    return model


def faults(expected: Shapes, held: Shapes, optional: set[str]) -> list[str]:
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


def _shapes(tree: Any) -> Shapes:
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


def _tiny_config(folder: Path) -> dict[str, Any] | None:
    file = folder / "tiny.json"
    if not file.is_file():
        return None
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _check_blocks(weights: Any, tiny: dict[str, Any] | None) -> None:
    """The networks are as deep as the checkpoint; one that lost a whole block would be shallower."""
    if tiny is None:
        return  # fixed numbers of T5 and CLIP layers; distilled transformers do exist
    counted = {
        "double": weights.num_transformer_blocks(),
        "single": weights.num_single_transformer_blocks(),
        "t5_layers": len(weights.components["t5_encoder"].get("t5_blocks", [])),
        "clip_layers": len(weights.components["clip_encoder"]["text_model"]["encoder"]["layers"]),
    }
    for key, count in counted.items():
        if count != tiny[key]:
            raise LoadError(f"tiny.json says {key} {tiny[key]}, the checkpoint has {count}")


def _to_float32(model: Any) -> None:
    # mflux alone would mix bf16 weights with fp32 masks, which CLIP's attention refuses.
    for attribute, _ in _PARTS.values():
        part = getattr(model, attribute)
        part.update(
            tree_map(
                lambda value: value.astype(mx.float32) if value.dtype == mx.bfloat16 else value,
                part.parameters(),
            )
        )


def _fit(model: Any, components: dict[str, Any], tiny: dict[str, Any]) -> None:
    """Set mflux's hard-coded dimensions from the weights, and from *tiny* what weights can't tell."""
    AdaLayerNormZero.__call__ = _ada_layer_norm_zero
    T5SelfAttention.__call__ = _t5_self_attention
    CLIPTextModel.__call__ = _clip_text_model
    try:
        _fit_transformer(model.transformer, components["transformer"], tiny)
        _fit_text_encoders(model, components, tiny)
    except (LookupError, TypeError) as exc:
        raise LoadError(f"the small checkpoint is not whole: {exc} is missing") from exc
    for _, module in model.vae.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = tiny["vae_groups"]
    for name, (attribute, _) in _PARTS.items():
        _take_shapes(getattr(model, attribute), components[name])
    model.tokenizers["t5"].max_length = tiny["max_t5"]
    model.tokenizers["clip"].max_length = tiny["max_clip"]


def _fit_transformer(transformer: Any, weights: dict[str, Any], tiny: dict[str, Any]) -> None:
    dim = weights["x_embedder"]["bias"].shape[0]
    inner = weights["transformer_blocks"][0]["attn"]["to_q"]["weight"].shape[0]
    transformer.pos_embed.axes_dim = list(tiny["axes_dim"])
    transformer.norm_out.embedding_dim = dim
    for block in transformer.transformer_blocks + transformer.single_transformer_blocks:
        block.attn.head_dimension = tiny["head_dim"]
        block.attn.num_heads = inner // tiny["head_dim"]
    for block in transformer.single_transformer_blocks:
        block.norm.dim = dim


def _fit_text_encoders(model: Any, components: dict[str, Any], tiny: dict[str, Any]) -> None:
    t5 = model.t5_text_encoder
    t5.t5_blocks = t5.t5_blocks[: tiny["t5_layers"]]
    for block in t5.t5_blocks:
        block.attention.SelfAttention.n_heads = tiny["t5_heads"]
    encoder = model.clip_text_encoder.text_model.encoder
    encoder.layers = encoder.layers[: tiny["clip_layers"]]
    layers = components["clip_encoder"]["text_model"]["encoder"]["layers"]
    dim = layers[0]["self_attn"]["q_proj"]["weight"].shape[0]
    for layer in encoder.layers:
        layer.self_attn.num_heads = tiny["clip_heads"]
        layer.self_attn.head_dimension = dim // tiny["clip_heads"]


def _take_shapes(network: nn.Module, weights: Any) -> None:
    """Give every parameter of *network* the shape that the checkpoint has; missing ones stay."""
    held = dict(tree_flatten(weights))

    def shaped(name: str, value: mx.array) -> mx.array:
        stored = held.get(name)
        if stored is None or stored.shape == value.shape:
            return value
        scales = held.get(name.removesuffix("weight") + "scales")
        if scales is not None:  # mflux groups 64 values of FLUX
            return mx.zeros((*stored.shape[:-1], scales.shape[-1] * 64))
        return mx.zeros(stored.shape)

    network.update(
        tree_unflatten([(name, shaped(name, v)) for name, v in tree_flatten(network.parameters())])
    )


def _ada_layer_norm_zero(self: Any, hidden_states: Any, text_embeddings: Any) -> Any:
    e = self.linear(nn.silu(text_embeddings))
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = mx.split(e, 6, axis=-1)
    hidden_states = self.norm(hidden_states) * (1 + scale[:, None]) + shift[:, None]
    return hidden_states, gate, shift_mlp, scale_mlp, gate_mlp


def _t5_self_attention(self: Any, x: Any) -> Any:
    batch, length, _ = x.shape

    def heads(y: Any) -> Any:
        return y.reshape(batch, length, self.n_heads, -1).transpose(0, 2, 1, 3)

    q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
    scores = q @ k.transpose(0, 1, 3, 2) + self._compute_bias(seq_length=length)
    out = nn.softmax(scores, axis=-1) @ v
    return self.o(out.transpose(0, 2, 1, 3).reshape(batch, length, -1))


def _clip_text_model(self: Any, tokens: Any) -> Any:
    h = self.embeddings(tokens)
    h = self.encoder(h, CLIPTextModel.create_causal_attention_mask(h.shape))
    h = self.final_layer_norm(h)
    return h[mx.arange(tokens.shape[0]), mx.argmax(tokens, axis=-1)]
