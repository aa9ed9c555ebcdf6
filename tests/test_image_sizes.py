"""What the families, the documentation and the example configs claim to weigh is what is counted."""

from __future__ import annotations

import re

import pytest

from contracts.families import FAMILIES
from contracts.settings.base import GIB
from contracts.settings.file import load
from contracts.settings.models import ImageSettings
from hostctl.local_stack import ROOT
from manager.ceiling import Mac, ceiling_of
from scripts.image_sizes import Count, weights

FAST_ROOM = 1.5 * 10**9  # bytes that a picture takes beside the weights, at the very least


def test_a_quantized_weight_takes_half_a_bit_more_than_its_bits() -> None:
    layers = Count(packed=64_000, plain=1_000)
    assert layers.bytes(4) == 64_000 * 4.5 / 8 + 2_000
    assert layers.bytes(8) == 64_000 * 8.5 / 8 + 2_000
    assert layers.bytes(None) == 130_000


@pytest.mark.mlx
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_weighs_what_is_counted_and_nothing_is_allocated(name: str) -> None:
    import mlx.core as mx  # noqa: TID251 - asks what is allocated

    before = mx.get_active_memory()
    assert weights(name) == FAMILIES[name].weights
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize("name", FAMILIES)
def test_the_documentation_has_the_same_figures(name: str) -> None:
    told = FAMILIES[name].weights
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "docs" / "models.md").read_text(), re.M)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[-3:] == [f"{told.at_8_bit} GB", f"{told.at_4_bit} GB", f"{told.text_at_4_bit} GB"]


@pytest.mark.parametrize("file", ["config.yaml", "config.16gb.yaml"])
def test_an_example_config_declares_more_than_the_weights_that_stay(file: str) -> None:
    for alias, model in load(ROOT / file, {}).models.items():
        if isinstance(model, ImageSettings):
            told = model.traits.weights
            resident = (
                told.at_4_bit if model.residency == "fast" else told.at_4_bit - told.text_at_4_bit
            )
            assert model.quantize == 4, alias
            assert model.memory_bytes >= resident * 10**9 + FAST_ROOM, alias
            assert model.memory_bytes >= told.at_4_bit * 10**9, alias  # while a prompt is read


def test_the_vlm_and_the_image_model_of_16_gb_stay_loaded_side_by_side() -> None:
    settings = load(ROOT / "config.16gb.yaml", {})
    # The GPU of a Mac with 16 GB may hold two thirds of it up to macOS 15, more from macOS 26 on.
    ceiling = ceiling_of(Mac(16 * GIB, (15, 6)))
    assert ceiling is not None
    budget = settings.memory.budget_bytes(16 * GIB, ceiling.bytes)
    chat, generate, edit = (
        settings.models[settings.default_for(route) or ""] for route in ("chat", "generate", "edit")
    )
    assert chat.memory_bytes + generate.memory_bytes <= budget
    assert all(model.memory_bytes <= budget for model in settings.models.values())
    assert edit.traits.instruction_edit  # type: ignore[union-attr]
