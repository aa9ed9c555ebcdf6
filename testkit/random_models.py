"""Writes checkpoints with random weights, in mflux's own layout and with its own saver.

    python -m testkit.random_models FAMILY FOLDER [--tiny] [--bits 4]

At full size they have the true shapes of a family: they generate noise, at the time and memory cost of
the real model. Tests use ``--tiny`` ones (a few million weights, with a ``tiny.json``) with mflux's
true classes. Needs mlx and mflux, and nothing from the network.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.metadata
import json
import shutil
import string
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WORDS = [
    word
    for line in (
        "a an the on of red green blue yellow white black purple orange grey circle square triangle",
        "background with small big left right top bottom",
        "picture",
        "photo make it sunset cat dog in snow",
    )
    for word in line.split()
]
_KEPT = Path(__file__).resolve().parents[1] / ".cache" / "checkpoints"
# Channels of a VAE, mflux's -> tiny. Its convolutions dominate the cost of a small image.
_WIDTHS = {128: 16, 256: 32, 512: 64}
_GROUPS = 8  # of their GroupNorms; mflux's have 32
# FLUX.1's dimensions, which are literals in mflux.
FLUX1: dict[str, Any] = {
    "dim": 192, "heads": 3, "head_dim": 64, "axes_dim": [8, 28, 28], "mlp": 384,
    "double": 1, "single": 2,
    # The width of relative_attention_bias must be a multiple of 64 to be quantized, so 64 heads.
    "t5_dim": 64, "t5_heads": 64, "t5_kv": 2, "t5_ff": 128, "t5_layers": 2,
    "clip_dim": 64, "clip_heads": 4, "clip_layers": 2,
    "vae_groups": _GROUPS, "max_t5": 32, "max_clip": 32,
}  # fmt: skip
KLEIN: dict[str, Any] = {
    "transformer": {
        "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 4,
        "joint_attention_dim": 3 * 64, "axes_dims_rope": [8, 8, 8, 8],
    },
    # The hidden states 9, 18 and 27 are used.
    "text_encoder": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 28, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32,
    },
    # Every prompt is padded to this many tokens, and each step attends to all of them.
    "vae_groups": _GROUPS, "max_length": 64,
}  # fmt: skip
Z_IMAGE: dict[str, Any] = {
    "transformer": {
        "dim": 192, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4, "cap_feat_dim": 64,
        "axes_dims": [16, 16, 16],
    },
    "text_encoder": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32,
    },
    "vae_groups": _GROUPS, "max_length": 96,
}  # fmt: skip
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
    made = hashlib.sha256(Path(__file__).read_bytes())
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


# --- FLUX.1 ------------------------------------------------------------------------------------------


def _flux1(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
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
    clip, t5 = _flux1_tokenizers()
    double, single = (FLUX1["double"], FLUX1["single"]) if tiny else (19, 38)
    model = SimpleNamespace(
        transformer=Transformer(config, double, single),
        t5_text_encoder=T5Encoder(),
        clip_text_encoder=CLIPEncoder(),
        vae=VAE(),
        tokenizers={"clip": LanguageTokenizer(clip, 77), "t5": LanguageTokenizer(t5, 256)},
    )
    if tiny:
        _shrink_flux1_transformer(model.transformer, config.x_embedder_input_dim())
        _shrink_t5(model.t5_text_encoder, len(t5))
        _shrink_clip(model.clip_text_encoder, len(clip))
        _shrink_vae(model.vae)
    return model, FluxWeightDefinition, FLUX1


def _flux1_tokenizers() -> tuple[Any, Any]:
    """A byte-level CLIP BPE and a T5 unigram over WORDS."""
    from transformers import CLIPTokenizer, T5Tokenizer

    chars = _byte_alphabet()
    tokens, merges = chars + [c + "</w>" for c in chars], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    # The end must have the highest id: mflux pools CLIP at argmax(token id).
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    clip.model_max_length = 77
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -4.0)]
    pieces += [("▁" + word, -5.0) for word in WORDS]
    pieces += [(c, -8.0) for c in string.printable[:95] if c != " "]
    return clip, T5Tokenizer(vocab=pieces, extra_ids=0)


def _byte_alphabet() -> list[str]:
    """GPT-2's byte alphabet: a printable character for each byte."""
    codes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    codes += [*range(ord("®"), ord("ÿ") + 1)]
    spare = 256 - len(codes)
    return [chr(code) for code in codes] + [chr(256 + number) for number in range(spare)]


def _shrink_flux1_transformer(transformer: Any, inputs: int) -> None:
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


def _shrink_vae(vae: Any) -> None:
    """Replace mflux's layers of 128, 256 and 512 channels by narrower ones; only for saving."""
    import mlx.nn as nn  # noqa: TID251

    def narrower(child: Any) -> Any:
        if isinstance(child, nn.Conv2d):
            out, height, width, into = child.weight.shape
            return nn.Conv2d(_WIDTHS.get(into, into), _WIDTHS.get(out, out), (height, width))
        if isinstance(child, nn.GroupNorm):
            return nn.GroupNorm(_GROUPS, _WIDTHS[child.weight.shape[0]])
        if isinstance(child, nn.Linear):
            return nn.Linear(_WIDTHS[512], _WIDTHS[512])
        if isinstance(child, nn.Module):
            _shrink_vae(child)
        elif isinstance(child, list):
            return [narrower(item) for item in child]
        return child

    for name, child in list(vae.items()):
        vae[name] = narrower(child)


# --- FLUX.2 klein, Z-Image ---------------------------------------------------------------------------


def _klein(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
    from mflux.models.common.config.model_config import ModelConfig  # noqa: TID251
    from mflux.models.common.tokenizer import LanguageTokenizer  # noqa: TID251
    from mflux.models.flux2.flux2_initializer import Flux2Initializer  # noqa: TID251
    from mflux.models.flux2.weights.flux2_weight_definition import (  # noqa: TID251
        Flux2KleinWeightDefinition,
    )

    of_size = ModelConfig.flux2_klein_9b if family.endswith("9b") else ModelConfig.flux2_klein_4b
    model = SimpleNamespace(model_config=copy.copy(of_size()), small_text_encoder=False)
    if tiny:
        model.model_config.transformer_overrides = KLEIN["transformer"]
        model.model_config.text_encoder_overrides = KLEIN["text_encoder"]
    Flux2Initializer._init_models(model)
    model.tokenizers = {"qwen3": LanguageTokenizer(_qwen_tokenizer(), 512)}
    if tiny:
        _shrink_vae(model.vae)
    return model, Flux2KleinWeightDefinition, KLEIN


def _z_image(family: str, tiny: bool) -> tuple[Any, Any, dict[str, Any]]:
    from mflux.models.common.tokenizer import LanguageTokenizer  # noqa: TID251
    from mflux.models.z_image.model.z_image_text_encoder.text_encoder import (  # noqa: TID251
        TextEncoder,
    )
    from mflux.models.z_image.model.z_image_transformer.transformer import (  # noqa: TID251
        ZImageTransformer,
    )
    from mflux.models.z_image.model.z_image_vae.vae import VAE  # noqa: TID251
    from mflux.models.z_image.weights.z_image_weight_definition import (  # noqa: TID251
        ZImageWeightDefinition,
    )

    sizes: dict[str, Any] = Z_IMAGE if tiny else {"transformer": {}, "text_encoder": {}}
    model = SimpleNamespace(
        vae=VAE(),
        transformer=ZImageTransformer(**sizes["transformer"]),
        text_encoder=TextEncoder(**sizes["text_encoder"]),
        tokenizers={"z_image": LanguageTokenizer(_qwen_tokenizer(), 512)},
    )
    if tiny:
        _shrink_vae(model.vae)
    return model, ZImageWeightDefinition, Z_IMAGE


def _qwen_tokenizer() -> Any:
    """Bytes as tokens, and a chat template in Qwen's form."""
    from transformers import Qwen2Tokenizer

    vocabulary = {char: number for number, char in enumerate(_byte_alphabet())}
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocabulary[special] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = _CHAT
    return tokenizer


_MAKERS = {"flux1": _flux1, "flux2": _klein, "z": _z_image}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--bits", type=int, choices=(4, 8))
    args = parser.parse_args()
    write(args.folder, args.family, tiny=args.tiny, bits=args.bits)


if __name__ == "__main__":
    main()
