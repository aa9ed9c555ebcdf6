"""What a family draws is what mflux's classes draw, whatever is shown, asked and loaded beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.families import FAMILIES
from tests.workers.image.families.conftest import Load, Make, Pictures
from tests.workers.image.families.jobs import DISTINCT, RED, SIZE, first_job, jobs_of, pictures
from workers.engine import Preview

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


@pytest.mark.parametrize("name", DISTINCT)
def test_previews_and_neighbours_change_no_picture(painter: Load, drawn: Pictures, name: str) -> None:
    for way, job in jobs_of(FAMILIES[name]).items():
        shown = painter(name).events(replace(job, previews=2, n=2))
        assert pictures(shown)[0] == drawn(name)[way], way
        previews = [event for event in shown if isinstance(event, Preview)]
        assert {(p.width, p.height) for p in previews} == {(16, 24)}
        assert [p.index for p in previews] == sorted(p.index for p in previews)


@pytest.mark.parametrize("name", [name for name in DISTINCT if FAMILIES[name].generates])
def test_it_draws_what_mflux_draws(load: Load, tiny: Make, tmp_path: Path, name: str) -> None:
    folder = tiny(name)
    if "klein" in name:
        folder = of_full_length(folder, tmp_path / name)
    painter = load(name, folder=folder)
    ours = painter.draw("a red cat", width=32, height=48, steps=2, guidance=2.0, seed=3)
    model = painter.engine._adapter.model

    def bare() -> Any:
        model.__class__ = next(k for k in type(model).__mro__ if k.__module__.startswith("mflux."))
        model.prompt_cache = {}
        guidance = 1.0 if "klein" in name else 2.0
        return model.generate_image(
            seed=3, prompt="a red cat", num_inference_steps=2, width=32, height=48, guidance=guidance
        ).image

    assert painter.do(bare).tobytes() == ours.tobytes()


def of_full_length(folder: Path, target: Path) -> Path:
    """*folder*, with the prompts of 512 tokens that mflux's klein always has."""
    shutil.copytree(folder, target)
    sizes = json.loads((target / "tiny.json").read_text())
    (target / "tiny.json").write_text(json.dumps({**sizes, "max_length": 512}))
    return target


@pytest.mark.parametrize("name", DISTINCT)
def test_lean_drops_text_encoders_and_draws_the_same(load: Load, painter: Load, name: str) -> None:
    fast, lean = painter(name), load(name, residency="lean")
    adapter = lean.engine._adapter
    texts = [part.attribute for part in adapter.parts if part.text]
    assert texts
    for prompt in ("a red cat", "a dog in snow"):
        asked = replace(first_job(name), prompt=prompt)
        assert pictures(lean.events(asked)) == pictures(fast.events(asked))
        assert all(getattr(adapter.model, text) is None for text in texts)
        assert all(getattr(fast.engine._adapter.model, text) is not None for text in texts)


def test_lean_reads_a_prompt_that_is_kept_without_its_encoders(load: Load) -> None:
    painter = load("flux2-klein-4b", residency="lean")
    first = painter.draw("a red cat", width=32, height=32, steps=1)

    def no_more(part: Any) -> Any:
        raise AssertionError(f"{part} was loaded again")

    painter.engine._adapter._text_encoder = no_more
    assert painter.draw("a red cat", width=32, height=32, steps=1).tobytes() == first.tobytes()
    with pytest.raises(AssertionError):
        painter.draw("a dog", width=32, height=32, steps=1)


def test_klein_draws_and_edits_from_one_load(painter: Load, drawn: Pictures) -> None:
    assert {"generate", "instruction"} <= drawn("flux2-klein-4b").keys()
    adapter = painter("flux2-klein-4b").engine._adapter
    assert type(adapter._edits).__mro__[2].__name__ == "Flux2KleinEdit"
    for network in ("transformer", "vae"):
        assert getattr(adapter._edits, network) is getattr(adapter.model, network)


def test_each_picture_of_an_instruction_edit_is_looked_at(painter: Load) -> None:
    blue = Image.new("RGB", SIZE, "blue")
    drawn = {
        painter("flux2-klein-4b")
        .draw("a cat", width=32, height=32, steps=1, references=pictures)
        .tobytes()
        for pictures in [(RED,), (blue,), (RED, blue), (blue, RED)]
    }
    assert len(drawn) == 4
