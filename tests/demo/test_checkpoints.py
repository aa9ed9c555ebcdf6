"""The shipped checkpoints match the code that makes such checkpoints.

Without torch and MLX, so only the readable parts: sizes and tokenizers.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from demo.training.flux import vocabulary
from demo.training.flux.dimensions import Dimensions

MODELS = Path(__file__).parents[2] / "demo" / "models"
IMAGE_GEN = MODELS / "image-gen"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_sizes_of_image_gen_are_those_of_the_training() -> None:
    assert read(IMAGE_GEN / "tiny.json") == json.loads(json.dumps(asdict(Dimensions())))


def test_the_words_of_image_gen_are_those_of_the_training() -> None:
    clip, t5 = (
        read(IMAGE_GEN / name / "tokenizer.json")["model"] for name in ("tokenizer", "tokenizer_2")
    )
    tokens, merges = vocabulary.clip_vocabulary()
    assert clip["vocab"] == tokens
    assert [tuple(pair) for pair in clip["merges"]] == merges
    assert [tuple(piece) for piece in t5["vocab"]] == vocabulary.t5_vocabulary()
    assert len(tokens) == Dimensions().clip_vocab
    assert len(t5["vocab"]) == Dimensions().t5_vocab


def test_both_tokenizers_of_image_gen_lower_case_their_input() -> None:
    clip, t5 = (
        read(IMAGE_GEN / name / "tokenizer.json")["normalizer"] for name in ("tokenizer", "tokenizer_2")
    )
    assert {"type": "Lowercase"} in clip["normalizers"]
    # transformers drops every other kind of normalizer when it rebuilds a T5 tokenizer.
    assert t5["type"] == "Precompiled"
    charsmap = base64.b64decode(t5["precompiled_charsmap"])
    assert charsmap == vocabulary.lower_case_charsmap()


def test_the_character_map_lower_cases_ascii_letters_only() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    normalizer = tokenizers.normalizers.Precompiled(vocabulary.lower_case_charsmap())
    for text in ("A Red Circle", "a red circle", "Zebra, ÜNÏCODE 42!"):
        expected = "".join(c.lower() if c.isascii() else c for c in text)
        assert normalizer.normalize_str(text) == expected


def test_the_end_of_a_prompt_has_the_highest_id() -> None:
    # mflux takes CLIP's output at the highest id of the prompt.
    tokens, _ = vocabulary.clip_vocabulary()
    assert max(tokens, key=lambda token: tokens[token]) == "<|endoftext|>"


@pytest.mark.parametrize("alias", ["vlm-best", "vlm-fast"])
def test_the_files_of_the_vlms_are_those_of_the_training(alias: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from demo.training.vlm.checkpoint import write_files

    write_files(alias, tmp_path)
    written = sorted(tmp_path.iterdir())
    assert "tokenizer.json" in {file.name for file in written}
    for file in written:
        assert file.read_bytes() == (MODELS / alias / file.name).read_bytes(), file.name


def test_tool_call_tags_are_tokens_as_in_the_real_tokenizers() -> None:
    # Qwen's has them as ordinary tokens, so they appear in decoded text. Moondream's has none.
    for alias, expected in (("vlm-best", [False, False]), ("vlm-fast", [])):
        added = read(MODELS / alias / "tokenizer.json")["added_tokens"]
        tags = ("<tool_call>", "</tool_call>")
        assert [token["special"] for token in added if token["content"] in tags] == expected
