"""A family generates the same bytes as mflux's classes, with or without previews and lean memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.families import FAMILIES
from tests.workers.image.families.conftest import Images, Load, Make
from tests.workers.image.families.jobs import DISTINCT, RED, SIZE, first_job, images, jobs_of
from workers.engine import Preview

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


@pytest.mark.parametrize("name", DISTINCT)
def test_previews_and_other_images_change_no_image(shared: Load, expected: Images, name: str) -> None:
    for way, job in jobs_of(FAMILIES[name]).items():
        events = shared(name).events(replace(job, previews=2, n=2))
        assert images(events)[0] == expected(name)[way], way
        previews = [event for event in events if isinstance(event, Preview)]
        assert {(p.width, p.height) for p in previews} == {(16, 24)}
        assert [p.index for p in previews] == sorted(p.index for p in previews)


@pytest.mark.parametrize("name", [name for name in DISTINCT if FAMILIES[name].generates])
def test_it_generates_what_mflux_generates(load: Load, tiny: Make, tmp_path: Path, name: str) -> None:
    folder = tiny(name)
    if "klein" in name:
        folder = of_full_length(folder, tmp_path / name)
    loaded = load(name, folder=folder)
    ours = loaded.generate("a red cat", width=32, height=48, steps=2, guidance=2.0, seed=3)
    model = loaded.engine._adapter.model

    def bare() -> Any:
        model.__class__ = next(k for k in type(model).__mro__ if k.__module__.startswith("mflux."))
        model.prompt_cache = {}
        guidance = 1.0 if "klein" in name else 2.0
        return model.generate_image(
            seed=3, prompt="a red cat", num_inference_steps=2, width=32, height=48, guidance=guidance
        ).image

    assert loaded.do(bare).tobytes() == ours.tobytes()


def of_full_length(folder: Path, target: Path) -> Path:
    """*folder*, with the prompts of 512 tokens that mflux's klein always has."""
    shutil.copytree(folder, target)
    sizes = json.loads((target / "tiny.json").read_text())
    (target / "tiny.json").write_text(json.dumps({**sizes, "max_length": 512}))
    return target


@pytest.mark.parametrize("name", DISTINCT)
def test_lean_unloads_text_encoders_and_generates_the_same(load: Load, shared: Load, name: str) -> None:
    fast, lean = shared(name), load(name, residency="lean")
    adapter = lean.engine._adapter
    texts = [part.attribute for part in adapter.parts if part.text]
    assert texts
    for prompt in ("a red cat", "a dog in snow"):
        job = replace(first_job(name), prompt=prompt)
        assert images(lean.events(job)) == images(fast.events(job))
        assert all(getattr(adapter.model, text) is None for text in texts)
        assert all(getattr(fast.engine._adapter.model, text) is not None for text in texts)


def test_lean_needs_no_encoder_for_a_cached_prompt(load: Load) -> None:
    loaded = load("flux2-klein-4b", residency="lean")
    first = loaded.generate("a red cat", width=32, height=32, steps=1)

    def refuse(part: Any) -> Any:
        raise AssertionError(f"{part} was loaded again")

    loaded.engine._adapter._text_encoder = refuse
    assert loaded.generate("a red cat", width=32, height=32, steps=1).tobytes() == first.tobytes()
    with pytest.raises(AssertionError):
        loaded.generate("a dog", width=32, height=32, steps=1)


def test_klein_generates_and_edits_from_one_load(shared: Load, expected: Images) -> None:
    assert {"generate", "instruction"} <= expected("flux2-klein-4b").keys()
    adapter = shared("flux2-klein-4b").engine._adapter
    assert type(adapter._edit_model).__mro__[2].__name__ == "Flux2KleinEdit"
    for network in ("transformer", "vae"):
        assert getattr(adapter._edit_model, network) is getattr(adapter.model, network)


def test_every_image_of_an_instruction_edit_has_an_effect(shared: Load) -> None:
    blue = Image.new("RGB", SIZE, "blue")
    results = {
        shared("flux2-klein-4b")
        .generate("a cat", width=32, height=32, steps=1, references=references)
        .tobytes()
        for references in [(RED,), (blue,), (RED, blue), (blue, RED)]
    }
    assert len(results) == 4
