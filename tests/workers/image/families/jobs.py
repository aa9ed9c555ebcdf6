"""A small job for each way in which a family generates."""

from __future__ import annotations

from typing import Any

from PIL import Image

from contracts.families import FAMILIES, Family
from tests.workers.conftest import image_job
from workers.engine import ImageEvent, ImageFinished, ImageJob

LISTED = [name for name, family in FAMILIES.items() if not family.experimental]
# Those that differ in more than their numbers: 4B and 9B are the same classes, schnell and dev too.
DISTINCT = [name for name in LISTED if name not in ("flux1-dev", "flux2-klein-9b")]
SIZE = (32, 48)
RED = Image.new("RGB", SIZE, "red")
LEFT = Image.new("L", SIZE, 0)
LEFT.paste(255, (0, 0, 16, 48))


def jobs_of(family: Family, **fields: Any) -> dict[str, ImageJob]:
    def job(**more: Any) -> ImageJob:
        base = {"width": SIZE[0], "height": SIZE[1], "steps": 3, "guidance": family.default_guidance}
        return image_job("a red cat", **{**base, **more, **fields})

    ways = {}
    if family.generates:
        ways["generate"] = job()
    if family.strength_edit:
        ways["strength"] = job(source=RED, run_steps=2)
    if family.instruction_edit:
        ways["instruction"] = job(references=(RED.resize((48, 32)),) * family.max_images)
    if family.mask == "blend" and family.strength_edit:
        ways["masked strength"] = job(source=RED, run_steps=2, mask=LEFT)
    if family.mask == "blend" and family.instruction_edit:
        ways["masked instruction"] = job(source=RED, references=(RED,), mask=LEFT)
    if family.mask == "native":
        ways["fill"] = job(source=RED, mask=LEFT)
    return ways


def first_job(name: str) -> ImageJob:
    return next(iter(jobs_of(FAMILIES[name]).values()))


def images(events: list[ImageEvent]) -> list[bytes]:
    return [event.rgb for event in events if isinstance(event, ImageFinished)]
