"""A checkpoint that is not whole is a clear error at load, never a model that guesses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.workers.conftest import MODELS, image_settings, vlm_settings
from workers.engine import LoadError

pytestmark = pytest.mark.mlx

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        target = tmp_path / name
        shutil.copytree(MODELS / name, target)
        for file in target.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        return target

    return copy


def without(*names: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        for name in names:
            del tensors[name]

    return change


def rewritten(file: Path, change: Change) -> None:
    import mlx.core as mx  # noqa: TID251 - writes the files that the engines read

    loaded: Any = mx.load(str(file), return_metadata=True)
    tensors, metadata = loaded
    change(tensors)
    mx.eval(tensors)
    partial = file.with_name("new.safetensors")
    mx.save_safetensors(str(partial), tensors, metadata)
    partial.replace(file)


def refusal(engine: Any) -> str:
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(LoadError) as caught:
            thread.submit(engine.load, lambda phase, detail: None).result()
        thread.submit(engine.close).result()
    message = str(caught.value)
    assert "\n" not in message
    return message


def vlm_refusal(folder: Path) -> str:
    from workers.vlm.engine import VlmEngine

    return refusal(VlmEngine("vlm", vlm_settings(folder)))


def image_refusal(folder: Path, **fields: Any) -> str:
    from workers.image.engine import MfluxEngine

    return refusal(MfluxEngine("image", image_settings(folder, **fields)))


class TestVisionLanguage:
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
    def test_a_missing_tensor_is_named(
        self, copied: Callable[[str], Path], model: str, tensor: str
    ) -> None:
        folder = copied(model)
        rewritten(folder / "model.safetensors", without(tensor))
        message = vlm_refusal(folder)
        assert message.startswith("models.vlm.path: ")
        # mlx-vlm's names differ from those in the file in their first words.
        assert ".".join(tensor.split(".")[-3:]) in message

    @pytest.mark.parametrize(("model", "tower"), [("vlm-best", "visual"), ("vlm-fast", "model.vision")])
    def test_a_model_that_lost_its_eyes_is_refused(
        self, copied: Callable[[str], Path], model: str, tower: str
    ) -> None:
        folder = copied(model)

        def blind(tensors: dict[str, Any]) -> None:
            for name in [name for name in tensors if name.startswith(f"{tower}.")]:
                del tensors[name]

        rewritten(folder / "model.safetensors", blind)
        assert "vision" in vlm_refusal(folder)

    def test_a_tensor_of_another_shape_is_named(self, copied: Callable[[str], Path]) -> None:
        folder = copied("vlm-best")
        name = "model.layers.0.mlp.down_proj.weight"

        def reshape(tensors: dict[str, Any]) -> None:
            tensors[name] = tensors[name].T

        rewritten(folder / "model.safetensors", reshape)
        assert name in vlm_refusal(folder)

    def test_a_file_that_was_cut_off_is_refused(self, copied: Callable[[str], Path]) -> None:
        folder = copied("vlm-best")
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[: 1 << 20])
        assert vlm_refusal(folder).startswith("models.vlm.path: the checkpoint can't be used: ")

    @pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_missing_file_is_refused(self, copied: Callable[[str], Path], file: str) -> None:
        folder = copied("vlm-best")
        (folder / file).unlink()
        assert vlm_refusal(folder).startswith("models.vlm.path: ")

    def test_a_stale_tokenizer_is_not_taken_for_moondreams(self, copied: Callable[[str], Path]) -> None:
        from workers.vlm.checkpoint import has_moondream_vocabulary

        folder = copied("vlm-fast")
        assert has_moondream_vocabulary(folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        for token in tokenizer["added_tokens"]:
            token["id"] += 50_256
        tokenizer["model"]["vocab"] = {"!": 0}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        assert not has_moondream_vocabulary(folder)


class TestImage:
    @pytest.mark.parametrize(
        ("part", "tensor"),
        [
            ("transformer", "transformer_blocks.1.attn.to_q.weight"),
            ("transformer", "single_transformer_blocks.2.proj_out.bias"),
            ("transformer", "norm_out.linear.bias"),
            ("text_encoder", "text_model.encoder.layers.1.mlp.fc1.weight"),
            ("text_encoder_2", "t5_blocks.0.attention.SelfAttention.q.weight"),
            ("vae", "decoder.conv_in.conv2d.weight"),
        ],
    )
    def test_a_missing_tensor_is_named_with_its_part(
        self, copied: Callable[[str], Path], part: str, tensor: str
    ) -> None:
        folder = copied("image-gen")
        rewritten(folder / part / "0.safetensors", without(tensor))
        message = image_refusal(folder)
        assert message.startswith("models.image.path: ")
        assert f"{part}: {tensor} is missing" in message

    def test_of_many_missing_tensors_the_first_few_are_named(
        self, copied: Callable[[str], Path]
    ) -> None:
        folder = copied("image-gen")

        def thin(tensors: dict[str, Any]) -> None:
            for name in [name for name in tensors if ".ff." in name]:
                del tensors[name]

        rewritten(folder / "transformer" / "0.safetensors", thin)
        message = image_refusal(folder)
        assert "more" in message
        assert message.count("is missing") == 5

    def test_a_lost_block_is_no_shallower_model(self, copied: Callable[[str], Path]) -> None:
        folder = copied("image-gen")

        def shorten(tensors: dict[str, Any]) -> None:
            for name in [name for name in tensors if name.startswith("transformer_blocks.1.")]:
                del tensors[name]

        rewritten(folder / "transformer" / "0.safetensors", shorten)
        assert "double 2, the checkpoint has 1" in image_refusal(folder)

    def test_a_tensor_of_another_shape_is_refused(self, copied: Callable[[str], Path]) -> None:
        folder = copied("image-gen")

        def transpose(tensors: dict[str, Any]) -> None:
            tensors["context_embedder.weight"] = tensors["context_embedder.weight"].T

        rewritten(folder / "transformer" / "0.safetensors", transpose)
        assert image_refusal(folder).startswith("models.image.path: ")

    def test_a_missing_component_is_refused(self, copied: Callable[[str], Path]) -> None:
        folder = copied("image-gen")
        shutil.rmtree(folder / "vae")
        assert image_refusal(folder).startswith("models.image.path: ")

    def test_a_schnell_checkpoint_is_no_dev(self) -> None:
        message = image_refusal(MODELS / "image-gen", family="flux1-dev")
        assert "guidance_embedder" in message

    @pytest.mark.parametrize("family", ["flux2-klein-4b", "z-image-turbo"])
    def test_a_small_flux_is_no_other_family_and_is_told_so(self, family: str) -> None:
        message = image_refusal(MODELS / "image-gen", family=family)
        assert "another family" in message


class TestShapes:
    """The comparison itself, at full size, without weights."""

    FULL = {"a.weight": (3072, 64), "a.bias": (3072,), "norm_out.linear.bias": (6144,)}  # noqa: RUF012

    def faults(self, held: dict[str, tuple[int, ...]], optional: bool = True) -> list[str]:
        from workers.image.families.checkpoint import faults

        return faults(self.FULL, held, {"norm_out.linear.bias"} if optional else set())

    def test_what_is_whole_has_no_faults(self) -> None:
        assert self.faults(self.FULL) == []

    def test_a_quantized_layer_is_whole(self) -> None:
        packed = {"a.weight": (3072, 8), "a.scales": (3072, 1), "a.biases": (3072, 1)}
        assert self.faults({**self.FULL, **packed}) == []
        assert self.faults({**self.FULL, **packed, "a.weight": (3072, 12)}) == []  # 6 bits

    def test_a_quantized_layer_without_its_biases_or_of_another_width_is_not(self) -> None:
        packed = {"a.weight": (3072, 8), "a.scales": (3072, 1)}
        assert self.faults({**self.FULL, **packed}) == ["a.biases is missing"]
        wrong = {**packed, "a.biases": (3072, 1), "a.weight": (3000, 8)}
        assert "not a quantized (3072, 64)" in self.faults({**self.FULL, **wrong})[0]

    def test_a_wrong_shape_is_told_with_both(self) -> None:
        assert self.faults({**self.FULL, "a.bias": (1,)}) == ["a.bias has the shape (1,), not (3072,)"]

    def test_the_bias_that_some_versions_of_mflux_left_out_may_be_missing(self) -> None:
        held = {name: shape for name, shape in self.FULL.items() if name != "norm_out.linear.bias"}
        assert self.faults(held) == []
        assert self.faults(held, optional=False) == ["norm_out.linear.bias is missing"]
