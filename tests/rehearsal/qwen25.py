"""Qwen2.5-VL as mlx-vlm 0.1.12 converted it: 4 bit, the vision tower at 16 bit, in two shards.

Names, types, shapes and total size are those of mlx-community's 7B and 3B. ``SMALL`` keeps the names,
the tokenizer and the template, but is narrow and shallow: a CPU completes a prompt in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rehearsal import tokenizers
from tests.rehearsal.synthetic import Blob, Tensor, Text, sharded

GROUP, BITS = 64, 4
_LAST = 151664  # the last of its special tokens; Qwen3 has more
_SHARD = 5 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    depth: int
    hidden: int
    feed: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision_depth: int = 32
    full_attention: tuple[int, ...] = (7, 15, 23, 31)
    dtype: str = "F16"
    step: float = 0.004  # between the 16 values of a weight; another step gives another commit


SEVEN_B = Shape(28, 3584, 18944, 28, 4, 152064, tied=False)
THREE_B = Shape(36, 2048, 11008, 16, 2, 151936, tied=True)
# float32: MLX's CPU back end is fifty times slower with quantized float16.
SMALL = Shape(2, 256, 512, 2, 1, 152064, False, vision_depth=2, full_attention=(1,), dtype="F32")

# The published template (chat_template.json and tokenizer_config.json both have it).
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}" + "Picture" + " {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2_5_VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def repository(shape: Shape, packages: Path, *, shard: int = _SHARD) -> dict[str, Blob]:
    """All files; the tokenizer is fetched to *packages*."""
    tensors = dict(sorted(_tensors(shape).items()))
    tokenizer = tokenizers.qwen(
        packages, last=_LAST, processor="Qwen2_5_VLProcessor", template=TEMPLATE
    )
    return {
        **sharded(tensors, shard, metadata={"format": "mlx"}),
        **tokenizer,
        "config.json": Text.json(_config(shape), 4),
        "preprocessor_config.json": Text.json(_PREPROCESSOR),
        "chat_template.json": Text.json({"chat_template": TEMPLATE}),
        "README.md": Text("---\nlibrary_name: transformers\ntags:\n- mlx\n---\n# mlx-community\n"),
        ".gitattributes": Text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n"),
    }


def _tensors(shape: Shape) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    kind, hidden = shape.dtype, shape.hidden
    head = hidden // shape.heads

    def packed(name: str, out: int, into: int, bias: bool = False) -> None:
        made[f"{name}.weight"] = Tensor("U32", (out, into * BITS // 32))
        made[f"{name}.scales"] = Tensor(kind, (out, into // GROUP), value=shape.step)
        made[f"{name}.biases"] = Tensor(kind, (out, into // GROUP), value=-0.03)
        if bias:
            made[f"{name}.bias"] = Tensor(kind, (out,), value=0.0)

    def plain(name: str, out: int, into: int) -> None:
        made[f"{name}.weight"] = Tensor(kind, (out, into))
        made[f"{name}.bias"] = Tensor(kind, (out,), value=0.0)

    def norm(name: str, width: int) -> None:
        made[f"{name}.weight"] = Tensor(kind, (width,), value=1.0)

    if not shape.tied:
        packed("language_model.lm_head", shape.vocabulary, hidden)
    packed("language_model.model.embed_tokens", shape.vocabulary, hidden)
    norm("language_model.model.norm", hidden)
    for number in range(shape.depth):
        layer = f"language_model.model.layers.{number}"
        norm(f"{layer}.input_layernorm", hidden)
        norm(f"{layer}.post_attention_layernorm", hidden)
        packed(f"{layer}.mlp.down_proj", hidden, shape.feed)
        packed(f"{layer}.mlp.gate_proj", shape.feed, hidden)
        packed(f"{layer}.mlp.up_proj", shape.feed, hidden)
        packed(f"{layer}.self_attn.q_proj", hidden, hidden, bias=True)
        packed(f"{layer}.self_attn.k_proj", shape.kv_heads * head, hidden, bias=True)
        packed(f"{layer}.self_attn.v_proj", shape.kv_heads * head, hidden, bias=True)
        packed(f"{layer}.self_attn.o_proj", hidden, hidden)
    for number in range(shape.vision_depth):
        block = f"vision_tower.blocks.{number}"
        norm(f"{block}.norm1", 1280)
        norm(f"{block}.norm2", 1280)
        plain(f"{block}.attn.qkv", 3840, 1280)
        plain(f"{block}.attn.proj", 1280, 1280)
        plain(f"{block}.mlp.gate_proj", 3420, 1280)
        plain(f"{block}.mlp.up_proj", 3420, 1280)
        plain(f"{block}.mlp.down_proj", 1280, 3420)
    norm("vision_tower.merger.ln_q", 1280)
    plain("vision_tower.merger.mlp.0", 5120, 5120)
    plain("vision_tower.merger.mlp.2", hidden, 5120)
    made["vision_tower.patch_embed.proj.weight"] = Tensor(kind, (1280, 2, 14, 14, 3))
    return made


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "image_token_id": 151655,
        "initializer_range": 0.02,
        "intermediate_size": shape.feed,
        "max_position_embeddings": 128000,
        "max_window_layers": shape.depth,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.depth,
        "num_key_value_heads": shape.kv_heads,
        "quantization": {"group_size": GROUP, "bits": BITS},
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": 151656,
        "vision_config": {
            "depth": shape.vision_depth,
            "fullatt_block_indexes": list(shape.full_attention),
            "hidden_act": "silu",
            "hidden_size": 1280,
            "in_chans": 3,
            "intermediate_size": 3420,
            "model_type": "qwen2_5_vl",
            "num_heads": 16,
            "out_hidden_size": shape.hidden,
            "patch_size": 14,
            "skip_vision": True,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
        "vision_token_id": 151654,
        "vocab_size": shape.vocabulary,
    }
