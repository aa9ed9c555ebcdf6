"""The sizes in the table of families, the docs and the example settings match the counted ones."""

from __future__ import annotations

import re

import pytest

from contracts.families import FAMILIES
from contracts.settings.base import GIB
from contracts.settings.file import load
from contracts.settings.models import ImageSettings
from gateway.routing import default_model
from hostctl.local_stack import ROOT
from manager.ceiling import Mac, ceiling_of
from scripts.image_sizes import Count, weights

WORK_BYTES = 1.5 * 10**9  # generating an image needs at least this in addition to the weights


def test_a_quantized_weight_takes_half_a_bit_more_than_its_bits() -> None:
    layers = Count(packed=64_000, plain=1_000)
    assert layers.bytes(4) == 64_000 * 4.5 / 8 + 2_000
    assert layers.bytes(8) == 64_000 * 8.5 / 8 + 2_000
    assert layers.bytes(None) == 130_000


@pytest.mark.mlx
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_counted_size_and_counting_allocates_nothing(name: str) -> None:
    import mlx.core as mx  # noqa: TID251 - reads the allocated memory

    before = mx.get_active_memory()
    assert weights(name) == FAMILIES[name].weights
    assert mx.get_active_memory() - before < 1 << 20


def test_the_docs_have_the_same_sizes() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    for name, family in FAMILIES.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.M)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        sizes = family.weights
        assert cells[-3:] == [
            f"{size} GB" for size in (sizes.at_8_bit, sizes.at_4_bit, sizes.text_at_4_bit)
        ]


@pytest.mark.parametrize("file", ["config.yaml", "config.16gb.yaml"])
def test_the_example_settings_declare_enough_memory_for_the_resident_weights(file: str) -> None:
    for alias, model in load(ROOT / file, {}).models.items():
        if isinstance(model, ImageSettings):
            sizes = model.traits.weights
            resident = (
                sizes.at_4_bit if model.residency == "fast" else sizes.at_4_bit - sizes.text_at_4_bit
            )
            assert model.quantize == 4, alias
            assert model.memory_bytes >= resident * 10**9 + WORK_BYTES, alias
            assert model.memory_bytes >= sizes.at_4_bit * 10**9, alias  # while encoding a prompt


def test_both_models_of_the_16_gb_settings_fit_into_the_budget_together() -> None:
    settings = load(ROOT / "config.16gb.yaml", {})
    # The GPU limit of a Mac with 16 GB is two thirds of it up to macOS 15, and more from macOS 26 on.
    ceiling = ceiling_of(Mac(16 * GIB, (15, 6)))
    assert ceiling is not None
    budget = settings.memory.budget_bytes(16 * GIB, ceiling.bytes)
    chat, generate, edit = (
        settings.models[default_model(settings, route) or ""] for route in ("chat", "generate", "edit")
    )
    assert chat.memory_bytes + generate.memory_bytes <= budget
    assert all(model.memory_bytes <= budget for model in settings.models.values())
    assert edit.traits.instruction_edit  # type: ignore[union-attr]
