"""An incomplete image checkpoint is a clear error at load, never a model that guesses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workers.conftest import MODELS
from tests.workers.damaged_checkpoints import (
    copy_of,
    image_refusal,
    rewritten,
    transposed,
    without,
    without_matching,
)

pytestmark = pytest.mark.mlx


class TestLoad:
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
    def test_the_error_for_a_missing_tensor_has_its_name_and_component(
        self, tmp_path: Path, part: str, tensor: str
    ) -> None:
        folder = copy_of("image-gen", tmp_path)
        rewritten(folder / part / "0.safetensors", without(tensor))
        message = image_refusal(folder)
        assert message.startswith("models.image.path: ")
        assert f"{part}: {tensor} is missing" in message

    def test_the_error_for_many_missing_tensors_has_the_first_few(self, tmp_path: Path) -> None:
        folder = copy_of("image-gen", tmp_path)
        rewritten(folder / "transformer" / "0.safetensors", without_matching(r"\.ff\."))
        message = image_refusal(folder)
        assert "more" in message
        assert message.count("is missing") == 5

    def test_a_missing_block_does_not_make_a_shallower_model(self, tmp_path: Path) -> None:
        folder = copy_of("image-gen", tmp_path)
        rewritten(
            folder / "transformer" / "0.safetensors", without_matching(r"^transformer_blocks\.1\.")
        )
        assert "double 2, the checkpoint has 1" in image_refusal(folder)

    def test_a_tensor_of_another_shape_is_refused(self, tmp_path: Path) -> None:
        folder = copy_of("image-gen", tmp_path)
        rewritten(folder / "transformer" / "0.safetensors", transposed("context_embedder.weight"))
        assert image_refusal(folder).startswith("models.image.path: ")

    def test_a_missing_component_is_refused(self, tmp_path: Path) -> None:
        folder = copy_of("image-gen", tmp_path)
        shutil.rmtree(folder / "vae")
        assert image_refusal(folder).startswith("models.image.path: ")

    def test_a_schnell_checkpoint_is_refused_as_dev(self) -> None:
        message = image_refusal(MODELS / "image-gen", family="flux1-dev")
        assert "guidance_embedder" in message

    @pytest.mark.parametrize("family", ["flux2-klein-4b", "z-image-turbo"])
    def test_a_small_flux_checkpoint_is_refused_as_another_family(self, family: str) -> None:
        message = image_refusal(MODELS / "image-gen", family=family)
        assert "another family" in message


class TestShapes:
    """The comparison itself, at full size and without weights."""

    FULL = {"a.weight": (3072, 64), "a.bias": (3072,), "norm_out.linear.bias": (6144,)}  # noqa: RUF012

    def faults(self, held: dict[str, tuple[int, ...]], optional: bool = True) -> list[str]:
        from workers.image.families.checkpoint import faults

        return faults(self.FULL, held, {"norm_out.linear.bias"} if optional else set())

    def test_a_complete_checkpoint_has_no_faults(self) -> None:
        assert self.faults(self.FULL) == []

    def test_a_quantized_layer_is_complete(self) -> None:
        packed = {"a.weight": (3072, 8), "a.scales": (3072, 1), "a.biases": (3072, 1)}
        assert self.faults({**self.FULL, **packed}) == []
        assert self.faults({**self.FULL, **packed, "a.weight": (3072, 12)}) == []  # 6 bits

    def test_a_quantized_layer_without_biases_or_of_another_width_is_not_complete(self) -> None:
        packed = {"a.weight": (3072, 8), "a.scales": (3072, 1)}
        assert self.faults({**self.FULL, **packed}) == ["a.biases is missing"]
        wrong = {**packed, "a.biases": (3072, 1), "a.weight": (3000, 8)}
        assert "not a quantized (3072, 64)" in self.faults({**self.FULL, **wrong})[0]

    def test_the_error_for_a_wrong_shape_has_both_shapes(self) -> None:
        assert self.faults({**self.FULL, "a.bias": (1,)}) == ["a.bias has the shape (1,), not (3072,)"]

    def test_the_bias_that_some_mflux_versions_left_out_may_be_missing(self) -> None:
        held = {name: shape for name, shape in self.FULL.items() if name != "norm_out.linear.bias"}
        assert self.faults(held) == []
        assert self.faults(held, optional=False) == ["norm_out.linear.bias is missing"]
