"""A family's checkpoint loads completely, in mflux's layout or its authors', or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from contracts.families import FAMILIES
from tests.workers.damaged_checkpoints import image_refusal, rewritten, without
from tests.workers.image.families.conftest import Images, Load, Make
from tests.workers.image.families.jobs import images, jobs_of

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


@pytest.mark.parametrize(
    ("name", "part", "tensor"),
    [
        ("flux1-kontext", "transformer", "time_text_embed.guidance_embedder.linear_1.weight"),
        ("flux1-fill", "transformer", "x_embedder.weight"),
        ("flux2-klein-4b", "transformer", "single_transformer_blocks.1.attn.to_out.weight"),
        ("flux2-klein-4b", "text_encoder", "layers.20.mlp.up_proj.weight"),
        ("flux2-klein-4b", "vae", "bn.running_var"),
        ("z-image-turbo", "transformer", "layers.1.attention.to_q.weight"),
        ("z-image-turbo", "vae", "decoder.conv_in.conv.weight"),
    ],
)
def test_a_missing_tensor_is_named_with_its_part(
    tiny: Make, tmp_path: Path, name: str, part: str, tensor: str
) -> None:
    folder = copy_of(tiny(name), tmp_path)
    rewritten(folder / part / "0.safetensors", without(tensor))
    assert f"{part}: {tensor} is missing" in image_refusal(folder, family=name)


@pytest.mark.parametrize("name", ["flux2-klein-4b", "z-image-turbo"])
def test_another_familys_checkpoint_is_refused(tiny: Make, name: str) -> None:
    other = {"flux2-klein-4b": "z-image-turbo", "z-image-turbo": "flux2-klein-4b"}[name]
    assert image_refusal(tiny(other), family=name).startswith("models.image.path: ")


def test_the_authors_layout_is_read_too(
    tiny: Make, load: Load, expected: Images, tmp_path: Path
) -> None:
    name = "flux2-klein-4b"
    folder = as_published(tiny(name), tmp_path / "published")
    assert not list(folder.rglob("0.safetensors"))
    theirs = load(name, folder=folder)
    for way, job in jobs_of(FAMILIES[name]).items():
        assert images(theirs.events(job)) == [expected(name)[way]], way
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    rewritten(file, without("context_embedder.weight"))
    assert "context_embedder.weight" in image_refusal(folder, family=name)


def test_a_folder_of_another_layout_is_refused_naming_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "flux1-schnell.safetensors").write_bytes(b"")
    message = image_refusal(tmp_path, family="flux2-klein-4b")
    assert "no weights in vae/" in message
    assert "vae, transformer, text_encoder" in message


def as_published(folder: Path, target: Path) -> Path:
    """*folder*, a klein saved by mflux, in the names and shapes of its authors' files."""
    import mlx.core as mx  # noqa: TID251 - writes the files that the engine reads
    from mflux.models.common.weights.mapping.weight_mapper import WeightMapper  # noqa: TID251
    from mflux.models.flux2.weights.flux2_weight_definition import (  # noqa: TID251
        Flux2KleinWeightDefinition,
    )

    for component in Flux2KleinWeightDefinition.get_components():
        held: Any = mx.load(str(folder / component.hf_subdir / "0.safetensors"))
        mapping = WeightMapper._build_flat_mapping(component.mapping_getter(), 30, 30)
        renamed = {}
        for theirs, targets in mapping.items():
            for ours, transform in targets:
                if ours in held:
                    value = held[ours]
                    transposed = transform is not None and value.ndim == 4
                    renamed[theirs] = value.transpose(0, 3, 1, 2) if transposed else value
        (target / component.hf_subdir).mkdir(parents=True)
        file = target / component.hf_subdir / "diffusion_pytorch_model.safetensors"
        mx.save_safetensors(str(file), renamed)
    shutil.copytree(folder / "tokenizer", target / "tokenizer")
    shutil.copy(folder / "tiny.json", target)
    return target


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / folder.name))
