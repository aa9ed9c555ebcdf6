"""Small FLUX.1 checkpoints: dimensions that are literals in mflux are taken from the weights instead.

Only for a checkpoint with a ``tiny.json``; the maths is the same. Three functions of mflux that contain
literal sizes are replaced by equivalents (tests/workers/test_library_contracts.py).

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mflux.models.flux.model.flux_text_encoder.clip_encoder.clip_text_model import CLIPTextModel
from mflux.models.flux.model.flux_text_encoder.t5_encoder.t5_self_attention import T5SelfAttention
from mflux.models.flux.model.flux_transformer.ada_layer_norm_zero import AdaLayerNormZero

from workers.engine import LoadError

Tiny = dict[str, Any]


def check_blocks(weights: Any, tiny: Tiny) -> None:
    """Compare the number of blocks. Networks get the checkpoint's depth, so a lost block would go
    unnoticed."""
    counted = {
        "double": weights.num_transformer_blocks(),
        "single": weights.num_single_transformer_blocks(),
        "t5_layers": len(weights.components["t5_encoder"].get("t5_blocks", [])),
        "clip_layers": len(weights.components["clip_encoder"]["text_model"]["encoder"]["layers"]),
    }
    for key, count in counted.items():
        if count != tiny[key]:
            raise LoadError(f"tiny.json says {key} {tiny[key]}, the checkpoint has {count}")


def fit(model: Any, components: dict[str, Any], tiny: Tiny) -> None:
    """Set mflux's hard-coded dimensions from the weights; those that weights lack, from *tiny*."""
    AdaLayerNormZero.__call__ = _ada_layer_norm_zero
    try:
        _fit_transformer(model.transformer, components["transformer"], tiny)
        fit_t5(model.t5_text_encoder, tiny)
        fit_clip(model.clip_text_encoder, components["clip_encoder"], tiny)
    except (LookupError, TypeError) as exc:
        raise LoadError(f"the small checkpoint is incomplete: {exc} is missing") from exc
    model.tokenizers["t5"].max_length = tiny["max_t5"]
    model.tokenizers["clip"].max_length = tiny["max_clip"]


def _fit_transformer(transformer: Any, weights: dict[str, Any], tiny: Tiny) -> None:
    dim = weights["x_embedder"]["bias"].shape[0]
    inner = weights["transformer_blocks"][0]["attn"]["to_q"]["weight"].shape[0]
    transformer.pos_embed.axes_dim = list(tiny["axes_dim"])
    transformer.norm_out.embedding_dim = dim
    for block in transformer.transformer_blocks + transformer.single_transformer_blocks:
        block.attn.head_dimension = tiny["head_dim"]
        block.attn.num_heads = inner // tiny["head_dim"]
    for block in transformer.single_transformer_blocks:
        block.norm.dim = dim


def fit_t5(t5: Any, tiny: Tiny) -> None:
    T5SelfAttention.__call__ = _t5_self_attention
    t5.t5_blocks = t5.t5_blocks[: tiny["t5_layers"]]
    for block in t5.t5_blocks:
        block.attention.SelfAttention.n_heads = tiny["t5_heads"]


def fit_clip(clip: Any, weights: dict[str, Any], tiny: Tiny) -> None:
    CLIPTextModel.__call__ = _clip_text_model
    encoder = clip.text_model.encoder
    encoder.layers = encoder.layers[: tiny["clip_layers"]]
    layers = weights["text_model"]["encoder"]["layers"]
    dim = layers[0]["self_attn"]["q_proj"]["weight"].shape[0]
    for layer in encoder.layers:
        layer.self_attn.num_heads = tiny["clip_heads"]
        layer.self_attn.head_dimension = dim // tiny["clip_heads"]


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
