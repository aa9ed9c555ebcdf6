"""All files of a demo checkpoint except its weights: tokenizer, configuration, processor files.

The layout is Hugging Face's and the architecture is exact, only small, so that mlx-vlm loads the
folder like any other. For Moondream2 the folder is also its own tokenizer folder: mlx-vlm's
``processing_moondream2.TOKENIZER_REPO`` must be set to it before loading.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo import world
from demo.training.vlm.conversation import MOONDREAM_ANSWER, MOONDREAM_END, NO_IMAGE, SMALL_TALK

Alias = Literal["vlm-best", "vlm-fast"]

VOCABULARY = 640
# The order of the ids. The real tokenizers have the tool call tags at the end, and other tokens in
# their place here.
QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<tool_call>",
    "</tool_call>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TAGS = ("<tool_call>", "</tool_call>")  # tokens, but not special: they appear in decoded text
MOONDREAM_SPECIAL = [
    "<|endoftext|>",
    "<|md_reserved_0|>",
    "<|md_reserved_1|>",
    "<|answer|>",
    "<|thinking|>",
    "<|coord|>",
    "<|size|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MIN_PIXELS, MAX_PIXELS = 224 * 224, 280 * 280  # one Qwen image token per 28 x 28 pixels: 64 to 100


def write_files(alias: Alias, folder: Path) -> None:
    """Write all files of a checkpoint that training does not write."""
    folder.mkdir(parents=True, exist_ok=True)
    if alias == "vlm-best":
        _write_qwen(folder)
    else:
        _write_moondream(folder)


# ---------------------------------------------------------------- tokenizer


def _corpus(scenes: int = 6000) -> list[str]:
    """The texts from which the merges are learned."""
    rng, texts = random.Random(0), []
    for _ in range(scenes):
        scene = world.random_scene(rng)
        for prompts, answer in world.TASKS.values():
            texts += [rng.choice(prompts), answer(scene)]
        texts += world.question(rng, scene)
        if rng.random() < 0.2:
            texts += rng.choice(SMALL_TALK)
            frame = f"\n\nQuestion: {rng.choice(world.TASKS['caption'].prompts)}\n\nAnswer: "
            texts += [NO_IMAGE, "You are a helpful assistant.", frame]
            texts += ["system\n", "user\n", "assistant\n"]
    return texts


def _train_tokenizer(special: Sequence[str], special_first: bool) -> Any:
    """Byte-level BPE, so that any text can be encoded.

    Capitals and digits never merge: with one token per glyph, reading a word is a copying task.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY if special_first else VOCABULARY - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special) if special_first else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    if not special_first:
        for token in special:
            tokenizer.add_tokens([AddedToken(token, special=token not in TAGS, normalized=False)])
    return tokenizer


# ---------------------------------------------------------------- the two families


def _write_qwen(folder: Path) -> None:
    tokenizer = _train_tokenizer(QWEN_TOKENS, special_first=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in QWEN_TOKENS}
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "additional_special_tokens": [token for token in QWEN_TOKENS[1:] if token not in TAGS],
            "model_max_length": 32768,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _write(
        folder / "preprocessor_config.json",
        {
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
    )
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    _write(folder / "config.json", _qwen_config(ids, ends, tokenizer.get_vocab_size()))
    _write(
        folder / "generation_config.json",
        {"eos_token_id": ends, "pad_token_id": ids["<|endoftext|>"], "do_sample": False},
    )


def _qwen_config(ids: dict[str, int], ends: list[int], vocabulary: int) -> dict[str, Any]:
    width, vision_width, vision_depth = 256, 128, 6
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": width,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "eos_token_id": ends,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": vision_depth,
            "hidden_size": vision_width,
            "intermediate_size": 256,
            "out_hidden_size": width,
            "num_heads": vision_width // 32,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "in_chans": 3,
            "hidden_act": "silu",
            "window_size": 112,
            "fullatt_block_indexes": list(range(vision_depth)),
            "tokens_per_second": 2,
        },
    }


def _write_moondream(folder: Path) -> None:
    tokenizer = _train_tokenizer(MOONDREAM_SPECIAL, special_first=True)
    if (
        tokenizer.token_to_id("<|endoftext|>") != MOONDREAM_END
        or tokenizer.token_to_id("<|answer|>") != MOONDREAM_ANSWER
    ):
        raise RuntimeError("the end and answer tokens are not at the ids that mlx-vlm expects")
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|endoftext|>",
            "bos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
        },
    )
    width, vision_width = 256, 128
    _write(
        folder / "config.json",
        {
            "architectures": ["HfMoondream"],
            "model_type": "moondream1",
            "eos_token_id": MOONDREAM_END,
            "bos_token_id": MOONDREAM_END,
            "torch_dtype": "bfloat16",
            "text_config": {
                "model_type": "moondream2",
                "hidden_size": width,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "vocab_size": tokenizer.get_vocab_size(),
                "max_position_embeddings": 2048,
                "num_attention_heads": 8,
                "num_key_value_heads": 8,
            },
            "vision_config": {
                "model_type": "moondream2_vision",
                "hidden_size": vision_width,
                "intermediate_size": 384,
                "num_hidden_layers": 5,
                "num_attention_heads": vision_width // 32,
                "proj_inner_dim": 512,
                "proj_out_dim": width,
            },
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
