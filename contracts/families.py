"""The families of image models: what each can do, how it draws when nothing is asked, what it weighs.

Rules: pure data; standard library only. The gateway refuses by it what a model can't do before anything
is loaded, the settings refuse what is experimental, the engine takes its adapter by the name
(``workers.image.families``). The weights are counted by ``scripts/image_sizes.py`` (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Mask = Literal["none", "blend", "native"]
Quality = Literal["low", "medium", "high", "auto"]


@dataclass(frozen=True, slots=True)
class Weights:
    """GB (10**9 bytes) of all weights at 4 and 8 bits; ``text``: of them, those that only read prompts.

    The lean settings free the latter after each new prompt. What a picture needs besides is told in
    docs/models.md.
    """

    at_4_bit: float
    at_8_bit: float
    text_at_4_bit: float
    text_at_8_bit: float


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    ``generates``: draws from a prompt alone. ``strength_edit``: redraws the last steps of a picture;
    ``instruction_edit``: looks at up to *max_images* pictures and does what the prompt says.
    ``mask``: "blend": any edit can be kept to a part of the picture; "native": the model was trained
    to fill a mask, and must have one; "none": masks are refused. ``max_images``: pictures of an edit.
    ``guidance``, ``negative_prompt``: the model heeds it. Where it knows no negative prompt a request
    with one is refused; a guidance is taken without effect, as clients send one to any model.
    ``steps``, ``edit_steps``: when neither request nor config say. ``multiple``: pixels that both sides
    are a multiple of. ``experimental``: not drawn through its true class in the tests; the config
    refuses it.
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
    weights: Weights
    multiple: int = 16
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
        weights=Weights(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-dev",
        generates=True, strength_edit=True, instruction_edit=False, mask="blend", max_images=1,
        guidance=True, default_guidance=3.5, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 30),
        weights=Weights(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-kontext",
        generates=False, strength_edit=False, instruction_edit=True, mask="blend", max_images=1,
        guidance=True, default_guidance=2.5, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 28),
        weights=Weights(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux1-fill",
        generates=False, strength_edit=False, instruction_edit=False, mask="native", max_images=1,
        guidance=True, default_guidance=30.0, negative_prompt=False,
        steps=20, edit_steps=20, quality=_steps(12, 20, 30),
        weights=Weights(9.6, 18.0, 2.7, 5.2),
    ),
    Family(
        "flux2-klein-4b",
        generates=True, strength_edit=True, instruction_edit=True, mask="blend", max_images=4,
        guidance=False, default_guidance=1.0, negative_prompt=False,
        steps=4, edit_steps=4, quality=_steps(2, 4, 8),
        weights=Weights(4.6, 8.6, 2.3, 4.3),
    ),
    Family(
        "flux2-klein-9b",
        generates=True, strength_edit=True, instruction_edit=True, mask="blend", max_images=4,
        guidance=False, default_guidance=1.0, negative_prompt=False,
        steps=4, edit_steps=4, quality=_steps(2, 4, 8),
        weights=Weights(9.5, 17.9, 4.3, 8.0),
    ),
    Family(
        "z-image-turbo",
        generates=True, strength_edit=True, instruction_edit=False, mask="blend", max_images=1,
        guidance=False, default_guidance=0.0, negative_prompt=False,
        steps=9, edit_steps=9, quality=_steps(6, 9, 12),
        weights=Weights(5.9, 11.0, 2.3, 4.3),
    ),
)  # fmt: skip
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})
