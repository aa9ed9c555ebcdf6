"""FLUX.1 (schnell, dev, Kontext, Fill): mflux's networks at full or tiny size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from testkit.random_models.tokenizers import flux1_tokenizers
from testkit.random_models.vae import GROUPS, shrink_vae

# FLUX.1's dimensions, which are literals in mflux.
FLUX1: dict[str, Any] = {
    "dim": 192, "heads": 3, "head_dim": 64, "axes_dim": [8, 28, 28], "mlp": 384,
    "double": 1, "single": 2,
    # The width of relative_attention_bias must be a multiple of 64 to be quantized, so 64 heads.
    "t5_dim": 64, "t5_heads": 64, "t5_kv": 2, "t5_ff": 128, "t5_layers": 2,
    "clip_dim": 64, "clip_heads": 4, "clip_layers": 2,
    "vae_groups": GROUPS, "max_t5": 32, "max_clip": 32,
}  # fmt: skip


def flux1(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
    from mflux.models.common.tokenizer import LanguageTokenizer  # noqa: TID251
    from mflux.models.flux.model.flux_text_encoder.clip_encoder.clip_encoder import (  # noqa: TID251
        CLIPEncoder,
    )
    from mflux.models.flux.model.flux_text_encoder.t5_encoder.t5_encoder import (  # noqa: TID251
        T5Encoder,
    )
    from mflux.models.flux.model.flux_transformer.transformer import Transformer  # noqa: TID251
    from mflux.models.flux.model.flux_vae.vae import VAE  # noqa: TID251
    from mflux.models.flux.weights.flux_weight_definition import (  # noqa: TID251
        FluxWeightDefinition,
    )

    config = {
        "flux1-schnell": ModelConfig.schnell,
        "flux1-dev": ModelConfig.dev,
        "flux1-kontext": ModelConfig.dev_kontext,
        "flux1-fill": ModelConfig.dev_fill,
    }[family]()
    clip, t5 = flux1_tokenizers()
    double, single = (FLUX1["double"], FLUX1["single"]) if tiny else (19, 38)
    model = SimpleNamespace(
        transformer=Transformer(config, double, single),
        t5_text_encoder=T5Encoder(),
        clip_text_encoder=CLIPEncoder(),
        vae=VAE(),
        tokenizers={"clip": LanguageTokenizer(clip, 77), "t5": LanguageTokenizer(t5, 256)},
    )
    if tiny:
        _shrink_transformer(model.transformer, config.x_embedder_input_dim())
        _shrink_t5(model.t5_text_encoder, len(t5))
        _shrink_clip(model.clip_text_encoder, len(clip))
        shrink_vae(model.vae)
    return model, FluxWeightDefinition, FLUX1


def _shrink_transformer(transformer: Any, inputs: int) -> None:
    import mlx.nn as nn  # noqa: TID251

    dim, mlp = FLUX1["dim"], FLUX1["mlp"]
    inner = FLUX1["heads"] * FLUX1["head_dim"]
    linear = nn.Linear
    transformer.x_embedder = linear(inputs, dim)
    transformer.context_embedder = linear(FLUX1["t5_dim"], dim)
    transformer.proj_out = linear(dim, 64)
    transformer.norm_out.linear = linear(dim, 2 * dim)
    embed = transformer.time_text_embed
    for embedder, width in (
        (embed.text_embedder, FLUX1["clip_dim"]),
        (embed.timestep_embedder, 256),
        (embed.guidance_embedder, 256),
    ):
        if embedder is not None:
            embedder.linear_1, embedder.linear_2 = linear(width, dim), linear(dim, dim)
    for block in transformer.transformer_blocks:
        block.norm1.linear, block.norm1_context.linear = linear(dim, 6 * dim), linear(dim, 6 * dim)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            setattr(block.attn, name, linear(dim, inner))
        block.attn.to_out, block.attn.to_add_out = [linear(inner, dim)], linear(inner, dim)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(block.attn, name, nn.RMSNorm(FLUX1["head_dim"]))
        for feed in (block.ff, block.ff_context):
            feed.linear1, feed.linear2 = linear(dim, mlp), linear(mlp, dim)
    for block in transformer.single_transformer_blocks:
        block.norm.linear = linear(dim, 3 * dim)
        for name in ("to_q", "to_k", "to_v"):
            setattr(block.attn, name, linear(dim, inner))
        for name in ("norm_q", "norm_k"):
            setattr(block.attn, name, nn.RMSNorm(FLUX1["head_dim"]))
        block.proj_mlp, block.proj_out = linear(dim, mlp), linear(inner + mlp, dim)


def _shrink_t5(t5: Any, vocabulary: int) -> None:
    import mlx.core as mx  # noqa: TID251
    import mlx.nn as nn  # noqa: TID251

    dim, feed = FLUX1["t5_dim"], FLUX1["t5_ff"]
    inner = FLUX1["t5_heads"] * FLUX1["t5_kv"]
    t5.t5_blocks = t5.t5_blocks[: FLUX1["t5_layers"]]
    t5.shared = nn.Embedding(vocabulary, dim)
    for block in t5.t5_blocks:
        attention, dense = block.attention.SelfAttention, block.ff.DenseReluDense
        for name in ("q", "k", "v"):
            setattr(attention, name, nn.Linear(dim, inner, bias=False))
        attention.o = nn.Linear(inner, dim, bias=False)
        attention.relative_attention_bias = nn.Embedding(32, FLUX1["t5_heads"])
        block.attention.layer_norm.weight = mx.ones((dim,))
        block.ff.layer_norm.weight = mx.ones((dim,))
        dense.wi_0, dense.wi_1 = (nn.Linear(dim, feed, bias=False) for _ in range(2))
        dense.wo = nn.Linear(feed, dim, bias=False)
    t5.final_layer_norm.weight = mx.ones((dim,))


def _shrink_clip(clip: Any, vocabulary: int) -> None:
    import mlx.nn as nn  # noqa: TID251

    dim = FLUX1["clip_dim"]
    model = clip.text_model
    model.encoder.layers = model.encoder.layers[: FLUX1["clip_layers"]]
    model.embeddings.position_embedding = nn.Embedding(77, dim)
    model.embeddings.token_embedding = nn.Embedding(vocabulary, dim)
    model.final_layer_norm = nn.LayerNorm(dim)
    for layer in model.encoder.layers:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(layer.self_attn, name, nn.Linear(dim, dim))
        layer.layer_norm1, layer.layer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
