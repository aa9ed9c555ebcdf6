"""Quantized weights, saved or quantized at load, and LoRAs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.damaged_checkpoints import image_refusal
from tests.workers.image.families.conftest import Images, Load, Make
from tests.workers.image.families.jobs import first_job, images

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


@pytest.mark.parametrize(
    ("name", "bits"),
    [("flux1-schnell", 4), ("flux1-schnell", 8), ("flux2-klein-4b", 4), ("z-image-turbo", 8)],
)
def test_weights_quantized_before_or_at_load_generate_the_same(
    load: Load, shared: Load, name: str, bits: int
) -> None:
    saved, at_load = shared(name, bits), load(name, quantize=bits)
    for one in (saved, at_load):
        layers = [type(m).__name__ for _, m in one.engine._adapter.model.transformer.named_modules()]
        assert layers.count("QuantizedLinear") > 10
        assert one.engine._adapter.model.bits == bits
    job = first_job(name)
    assert images(saved.events(job)) == images(at_load.events(job))


class TestLoras:
    """LoRAs in the layout that trainers write: two small matrices for one layer."""

    KEYS = {  # noqa: RUF012
        "flux1-schnell": ("transformer.transformer_blocks.0.attn.to_q", 192),
        "flux2-klein-4b": ("transformer.transformer_blocks.0.attn.to_q", 128),
        "z-image-turbo": ("diffusion_model.layers.0.attention.to_q", 192),
    }

    def lora(self, path: Path, layer: str, width: int) -> Path:
        import mlx.core as mx  # noqa: TID251 - writes the file

        key = mx.random.key(1)
        matrices = {
            f"{layer}.lora_A.weight": mx.random.normal((4, width), key=key),
            f"{layer}.lora_B.weight": mx.random.normal((width, 4), key=key),
        }
        mx.save_safetensors(str(path), matrices)
        return path

    @pytest.mark.parametrize("name", KEYS)
    def test_its_scale_determines_its_effect(
        self, load: Load, expected: Images, tmp_path: Path, name: str
    ) -> None:
        path = str(self.lora(tmp_path / "style.safetensors", *self.KEYS[name]))
        plain = next(iter(expected(name).values()))
        none, half, full = (
            images(load(name, loras=[{"path": path, "scale": scale}]).events(first_job(name)))[0]
            for scale in (0.0, 0.5, 1.0)
        )
        assert none == plain
        assert len({plain, half, full}) == 3

    def test_it_works_beside_quantized_weights(self, load: Load, shared: Load, tmp_path: Path) -> None:
        name = "flux2-klein-4b"
        path = str(self.lora(tmp_path / "style.safetensors", *self.KEYS[name]))
        job = first_job(name)
        plain = images(shared(name, 4).events(job))
        assert images(load(name, bits=4, loras=[{"path": path}]).events(job)) != plain

    def test_a_missing_file_and_one_of_another_model_are_refused(
        self, tiny: Make, tmp_path: Path
    ) -> None:
        folder = tiny("flux1-schnell")
        gone = str(tmp_path / "gone.safetensors")
        assert f"loras: {gone}: file not found" in image_refusal(folder, loras=[{"path": gone}])
        other = str(self.lora(tmp_path / "other.safetensors", "some.other.layer", 16))
        assert "loras: " in image_refusal(folder, loras=[{"path": other}])
