"""Count the weights of the image families in mflux's modules, without allocating them.

    python -m scripts.image_sizes

MLX is lazy: a network that is never evaluated has shapes, but no memory. A layer that mflux quantizes
takes ``bits + 0.5`` bits per weight (a 16-bit scale and bias per 64 weights), other layers 16 bits. The
output is the table in docs/models.md; ``contracts.families`` has the same figures
(tests/test_image_sizes.py compares them).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from contracts.families import FAMILIES, WeightSizes

GROUP = 64


class Count(NamedTuple):
    """The number of weights of a network: in quantized layers (``packed``), and in others."""

    packed: int
    plain: int

    def bytes(self, bits: int | None) -> float:
        """Size at *bits* per quantized weight; None: 16 bits, as published."""
        if bits is None:
            return 2.0 * (self.packed + self.plain)
        return self.packed * (bits + 32 / GROUP) / 8 + 2.0 * self.plain


def count(network: Any) -> Count:
    from mlx.utils import tree_flatten  # noqa: TID251 - shapes only

    total = sum(value.size for _, value in tree_flatten(network.parameters()))
    packed = sum(
        module.weight.size
        for _, module in network.named_modules()
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % GROUP == 0
    )
    return Count(packed, total - packed)


def counts(family: str) -> dict[str, Count]:
    """The counts of a family's networks, by mflux's names."""
    from testkit.random_models import networks

    model, definition = networks(family)
    return {
        component.name: count(getattr(model, component.model_attr or component.name))
        for component in definition.get_components()
    }


def is_text(name: str) -> bool:
    return name not in ("vae", "transformer")


def weights(family: str) -> WeightSizes:
    """The counted sizes of *family*, to compare with ``contracts.families``."""
    found = counts(family)

    def gb(bits: int, text: bool = False) -> float:
        taken = [c.bytes(bits) for name, c in found.items() if not text or is_text(name)]
        return round(sum(taken) / 1e9, 1)

    return WeightSizes(gb(4), gb(8), gb(4, text=True), gb(8, text=True))


def main() -> None:
    sizes_of = "| family | transformer | text encoders | VAE "
    print(f"{sizes_of}| 16 bits | 8 bits | 4 bits | of it text, 4 bits |")
    print("|---|---|---|---|---|---|---|---|")
    for family in FAMILIES:
        found = counts(family)
        sizes = {name: sum(c) / 1e9 for name, c in found.items()}
        text = sum(size for name, size in sizes.items() if is_text(name))
        whole = sum(c.bytes(None) for c in found.values()) / 1e9
        sized = weights(family)
        print(
            f"| {family} | {sizes['transformer']:.2f} B | {text:.2f} B | {sizes['vae']:.2f} B "
            f"| {whole:.1f} GB | {sized.at_8_bit} GB | {sized.at_4_bit} GB | {sized.text_at_4_bit} GB |"
        )


if __name__ == "__main__":
    main()
