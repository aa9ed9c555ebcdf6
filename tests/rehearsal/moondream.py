"""Moondream2 as published, and the separate repository of its tokenizer.

The weights file has exactly the published size (3,854,538,968 bytes). Its own tokenizer files are
outdated ones of GPT-2, as published. The tokenizer in use, ``moondream/starmie-v1``, is a substitute:
its control tokens, its size and the words of the skills are real, its merges are made up.
"""

from __future__ import annotations

from typing import Any

from tests.rehearsal.synthetic import Blob, Tensor, Text, Weights
from tests.rehearsal.tokenizers import byte_characters

TAG = "2025-06-21"  # of the published commit
CONTROL = 21  # ids 0 to 20
VOCABULARY = 51200
WORDS = {15381: "query", 32708: "caption", 12492: "short", 6382: "normal", 4059: "long"}
_KIND = "BF16"
_CONFIG: dict[str, Any] = {
    "architectures": ["HfMoondream"],
    "auto_map": {
        "AutoConfig": "hf_moondream.HfConfig",
        "AutoModelForCausalLM": "hf_moondream.HfMoondream",
    },
    "config": {},
    "model_type": "moondream1",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.4",
}
_CODE = ("hf_moondream.py", "moondream.py", "config.py", "vision.py", "text.py", "handler.py")


def repository(*, text_layers: int = 24, vision_layers: int = 27) -> dict[str, Blob]:
    """With fewer layers than published, config.json states their numbers."""
    config = dict(_CONFIG)
    if (text_layers, vision_layers) != (24, 27):
        config["text_config"] = {"num_hidden_layers": text_layers}
        config["vision_config"] = {"num_hidden_layers": vision_layers}
    return {
        "model.safetensors": Weights(tensors(text_layers, vision_layers), {"format": "pt"}),
        "config.json": Text.json(config),
        "generation_config.json": Text.json(
            {"_from_model_config": True, "transformers_version": "4.44.0"}
        ),
        "versions.txt": Text("2024-03-04\n2024-05-08\n2025-06-21\n"),
        "requirements.txt": Text("einops\npyvips-binary==8.16.0\npyvips==2.2.3\n"),
        "README.md": Text("---\nlicense: apache-2.0\npipeline_tag: image-text-to-text\n---\n"),
        ".gitattributes": Text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n"),
        **{name: Text("raise SystemExit('code of a checkpoint ran')\n") for name in _CODE},
        **_stale_tokenizer(),
    }


def tensors(text_layers: int = 24, vision_layers: int = 27) -> dict[str, Tensor]:
    """Tensors with the names that ``HfMoondream.save_pretrained`` gives them."""
    made: dict[str, Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        made[f"model.{name}.bias"] = Tensor(_KIND, (out,), value=0.0)
        made[f"model.{name}.weight"] = Tensor(_KIND, (out, into))

    def norm(name: str, width: int) -> None:
        made[f"model.{name}.bias"] = Tensor(_KIND, (width,), value=0.0)
        made[f"model.{name}.weight"] = Tensor(_KIND, (width,), value=1.0)

    linear("region.coord_decoder.fc1", 8192, 2048)
    linear("region.coord_decoder.fc2", 1024, 8192)
    linear("region.coord_encoder", 2048, 256)
    made["model.region.coord_features"] = Tensor(_KIND, (1, 128))
    linear("region.size_decoder.fc1", 8192, 2048)
    linear("region.size_decoder.fc2", 2048, 8192)
    linear("region.size_encoder", 2048, 512)
    made["model.region.size_features"] = Tensor(_KIND, (2, 256))
    for number in range(text_layers):
        block = f"text.blocks.{number}"
        linear(f"{block}.attn.proj", 2048, 2048)
        linear(f"{block}.attn.qkv", 6144, 2048)
        norm(f"{block}.ln", 2048)
        linear(f"{block}.mlp.fc1", 8192, 2048)
        linear(f"{block}.mlp.fc2", 2048, 8192)
    linear("text.lm_head", VOCABULARY, 2048)
    norm("text.post_ln", 2048)
    made["model.text.wte"] = Tensor(_KIND, (VOCABULARY, 2048))
    for number in range(vision_layers):
        block = f"vision.blocks.{number}"
        linear(f"{block}.attn.proj", 1152, 1152)
        linear(f"{block}.attn.qkv", 3456, 1152)
        norm(f"{block}.ln1", 1152)
        norm(f"{block}.ln2", 1152)
        linear(f"{block}.mlp.fc1", 4304, 1152)
        linear(f"{block}.mlp.fc2", 1152, 4304)
    linear("vision.patch_emb", 1152, 588)
    made["model.vision.pos_emb"] = Tensor(_KIND, (1, 729, 1152))
    norm("vision.post_ln", 1152)
    linear("vision.proj_mlp.fc1", 8192, 2304)
    linear("vision.proj_mlp.fc2", 2048, 8192)
    return made


def _added(number: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": number, "content": content, **flags, "special": special}


def _byte_level(add_prefix_space: bool, trim_offsets: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": True,
    }


def _tokenizer(
    vocabulary: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _byte_level(False, True),
        "post_processor": None,
        "decoder": _byte_level(True, True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _stale_tokenizer() -> dict[str, Blob]:
    """GPT-2's ids: 50256 ends a text; in Moondream's tokenizer 0 does."""
    vocabulary = {char: number for number, char in enumerate(byte_characters())}
    for number in range(len(vocabulary), 50256):
        vocabulary[f"g{number}"] = number
    vocabulary["<|endoftext|>"] = 50256
    added = [_added(50256, "<|endoftext|>", special=True)]
    added += [_added(50257 + i, " " * (31 - i), special=False) for i in range(30)]
    end = "<|endoftext|>"
    config = {
        "add_prefix_space": False,
        "bos_token": end,
        "clean_up_tokenization_spaces": True,
        "eos_token": end,
        "model_max_length": 2048,
        "tokenizer_class": "CodeGenTokenizer",
        "unk_token": end,
    }
    return {
        "tokenizer.json": Text.json(_tokenizer(vocabulary, [], added)),
        "vocab.json": Text.json(vocabulary, None),
        "merges.txt": Text("#version: 0.2\n"),
        "added_tokens.json": Text.json({token["content"]: token["id"] for token in added[1:]}),
        "special_tokens_map.json": Text.json({"bos_token": end, "eos_token": end, "unk_token": end}),
        "tokenizer_config.json": Text.json(config),
    }


def starmie() -> dict[str, Blob]:
    """The files of the tokenizer's repository."""
    names = ["<|endoftext|>", *(f"<|md_reserved_{i}|>" for i in range(CONTROL - 1))]
    vocabulary = {name: number for number, name in enumerate(names)}
    for char in byte_characters():
        vocabulary[char] = len(vocabulary)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    merges = []
    for first in ("Ġ", *letters):
        for second in letters:
            vocabulary[first + second] = len(vocabulary)
            merges.append([first, second])
    for number in range(len(vocabulary), VOCABULARY):
        vocabulary[WORDS.get(number, f"zz{number}")] = number
    added = [_added(number, name, special=True) for number, name in enumerate(names)]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    config = {
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": Text.json(_tokenizer(vocabulary, merges, added)),
        "special_tokens_map.json": Text.json({}),
        "tokenizer_config.json": Text.json(config),
        "README.md": Text("starmie\n"),
    }
