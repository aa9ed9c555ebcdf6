"""The families of image models: capabilities, defaults, and the size of their weights.

Rules: pure data; standard library only. The gateway refuses requests by this table before a model is
loaded, the settings refuse experimental families, and the engine finds its adapter by the name
(``workers.image.families``). ``scripts/image_sizes.py`` counts the weights (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Mask = Literal["none", "blend", "native"]
Quality = Literal["low", "medium", "high", "auto"]


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """GB (10**9 bytes) of all weights at 4 and 8 bits; ``text``: the part of the text encoders.

    ``residency: lean`` frees the text encoders after each new prompt. docs/models.md has the memory
    that generating an image adds.
    """

    at_4_bit: float
    at_8_bit: float
    text_at_4_bit: float
    text_at_8_bit: float


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    ``generates``: makes an image from a prompt alone. ``strength_edit``: edits by redoing the last
    steps. ``instruction_edit``: edits up to ``max_images`` images as the prompt says. ``mask``:
    "blend": any edit can be limited to a part of the image; "native": the model is trained to fill a
    mask and needs one; "none": masks are refused.
    ``guidance``, ``negative_prompt``: whether the model supports them. An unsupported negative prompt
    is refused; an unsupported guidance is ignored, because clients send one to any model.
    ``steps``, ``edit_steps``: the defaults if neither request nor settings set them.
    ``experimental``: no test runs the model's real class; the settings refuse it.
    """

    name: str
    generates: bool
    strength_edit: bool
    instruction_edit: bool
    mask: Mask
    max_images: int
    guidance: bool
    default_guidance: float
    negative_prompt: bool
    steps: int
    edit_steps: int
    quality: Mapping[Quality, int]
    weights: WeightSizes
    experimental: bool = False

    @property
    def edits(self) -> bool:
        return self.strength_edit or self.instruction_edit or self.mask == "native"


def _steps(low: int, medium: int, high: int) -> Mapping[Quality, int]:
    return MappingProxyType({"low": low, "medium": medium, "high": high, "auto": medium})


_FAMILIES = (
    Family(
        "flux1-schnell",
        generates=True, strength_edit=True, instruction_edit=False, mask="blend", max_images=1,
        guidance=False, default_guidance=0.0, negative_prompt=False,
        steps=4, edit_steps=8, quality=_steps(2, 4, 8),
        weights=WeightSizes(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-dev",
        generates=True, strength_edit=True, instruction_edit=False, mask="blend", max_images=1,
        guidance=True, default_guidance=3.5, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 30),
        weights=WeightSizes(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-kontext",
        generates=False, strength_edit=False, instruction_edit=True, mask="blend", max_images=1,
        guidance=True, default_guidance=2.5, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 28),
        weights=WeightSizes(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-fill",
        generates=False, strength_edit=False, instruction_edit=False, mask="native", max_images=1,
        guidance=True, default_guidance=30.0, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 30),
        weights=WeightSizes(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux2-klein-4b",
        generates=True, strength_edit=True, instruction_edit=True, mask="blend", max_images=4,
        guidance=False, default_guidance=1.0, negative_prompt=False,
        steps=4, edit_steps=4, quality=_steps(2, 4, 8),
        weights=WeightSizes(4.6, 8.6, 2.3, 4.3),
    ),
    Family(
        "flux2-klein-9b",
        generates=True, strength_edit=True, instruction_edit=True, mask="blend", max_images=4,
        guidance=False, default_guidance=1.0, negative_prompt=False,
        steps=4, edit_steps=4, quality=_steps(2, 4, 8),
        weights=WeightSizes(9.5, 17.9, 4.3, 8.0),
    ),
    Family(
        "z-image-turbo",
        generates=True, strength_edit=True, instruction_edit=False, mask="blend", max_images=1,
        guidance=False, default_guidance=0.0, negative_prompt=False,
        steps=9, edit_steps=9, quality=_steps(6, 9, 12),
        weights=WeightSizes(5.9, 11.0, 2.3, 4.3),
    ),
)  # fmt: skip
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})
