"""An incomplete vision-language checkpoint is a clear error at load, never a model that guesses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workers.damaged_checkpoints import (
    copy_of,
    rewritten,
    transposed,
    vlm_refusal,
    without,
    without_matching,
)

pytestmark = pytest.mark.mlx


@pytest.mark.parametrize(
    ("model", "tensor"),
    [
        ("vlm-best", "model.layers.2.mlp.up_proj.weight"),
        ("vlm-best", "visual.blocks.3.attn.qkv.weight"),
        ("vlm-best", "model.embed_tokens.weight"),
        ("vlm-fast", "model.text.blocks.1.attn.qkv.weight"),
        ("vlm-fast", "model.vision.proj_mlp.fc1.weight"),
    ],
)
def test_the_error_for_a_missing_tensor_has_its_name(tmp_path: Path, model: str, tensor: str) -> None:
    folder = copy_of(model, tmp_path)
    rewritten(folder / "model.safetensors", without(tensor))
    message = vlm_refusal(folder)
    assert message.startswith("models.vlm.path: ")
    # mlx-vlm's names differ from the file's in their first words.
    assert ".".join(tensor.split(".")[-3:]) in message


@pytest.mark.parametrize(("model", "tower"), [("vlm-best", "visual"), ("vlm-fast", "model.vision")])
def test_a_checkpoint_without_its_vision_tower_is_refused(
    tmp_path: Path, model: str, tower: str
) -> None:
    folder = copy_of(model, tmp_path)
    rewritten(folder / "model.safetensors", without_matching(rf"^{tower}\."))
    assert "vision" in vlm_refusal(folder)


def test_the_error_for_a_tensor_of_another_shape_has_its_name(tmp_path: Path) -> None:
    folder = copy_of("vlm-best", tmp_path)
    name = "model.layers.0.mlp.down_proj.weight"
    rewritten(folder / "model.safetensors", transposed(name))
    assert name in vlm_refusal(folder)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = copy_of("vlm-best", tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: 1 << 20])
    assert vlm_refusal(folder).startswith("models.vlm.path: the checkpoint can't be used: ")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_refused(tmp_path: Path, file: str) -> None:
    folder = copy_of("vlm-best", tmp_path)
    (folder / file).unlink()
    assert vlm_refusal(folder).startswith("models.vlm.path: ")


def test_a_stale_tokenizer_is_not_mistaken_for_moondreams(tmp_path: Path) -> None:
    from workers.vlm.checkpoint import has_moondream_vocabulary

    folder = copy_of("vlm-fast", tmp_path)
    assert has_moondream_vocabulary(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["id"] += 50_256
    tokenizer["model"]["vocab"] = {"!": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert not has_moondream_vocabulary(folder)
