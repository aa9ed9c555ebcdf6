"""Renders docs/dev/rehearsal.md from the results of the scenarios. Pure, except for ``machine``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

_HEAD = """# The rehearsal: the shipped settings on checkpoints of the published layouts

`make rehearsal` writes this page. A test server acts as the Hugging Face Hub and serves the models of
config.yaml and config.16gb.yaml under their own ids: with the published file names, tensor names, types,
shapes and byte counts, and with random weights. The real stack starts with an empty cache and serves a
first user's requests. `ARGS="--only NAME"` runs one scenario, `ARGS=--rest` those that have not passed yet;
`ARGS=--list` lists them. A run needs up to 26 GB of disk, 14 GB of free memory and about half an hour on
an otherwise idle machine. All files are removed afterwards (`--keep` keeps them). npm and pip are needed to
fetch the tokenizers.

The result of each scenario is kept until it runs again, so this page may combine several runs, also of
different commits.

The rehearsal covers downloads, caches, error messages, loads, footprints, tokenizers, templates and grammars.
It does not cover the output of real weights, or Metal.
"""

_NEAR = """## Differences from the real checkpoints

| model | real | substituted |
|---|---|---|
| vikhyatk/moondream2 | the byte count of the weights, config.json, the outdated tokenizer and the code files next to them; control tokens and size of moondream/starmie-v1 | weights; the merges of moondream/starmie-v1 |
| mlx-community/Qwen2.5-VL-7B- and 3B-Instruct-4bit | the layout in float16 at 4 bit, Qwen's tokenizer, the template | weights |
| madroid/flux.1-schnell-mflux-4bit | names and shapes, from the classes of mflux 0.2.0, which saved it; CLIP's tokenizer | weights; T5's tokenizer |
| black-forest-labs/FLUX.2-klein-4B | published names, from mflux's mapping; Qwen3's tokenizer and template | weights |
| black-forest-labs/FLUX.1-dev | that it is gated | everything else: none of its files is fetched |

MLX's CPU back end multiplies quantized 16-bit weights at well under 0.1 GFLOP/s. Therefore only Moondream2
completes a prompt at full size; the other models are observed until all weights are in memory. Completions,
tool calls, JSON and images come from models with the real tokenizer and fewer, narrower layers (Qwen2.5-VL:
2 layers of 256, float32; Moondream2: 1 layer in each tower; FLUX.1: one block of each kind at the true width;
klein: one block of each kind and a narrow text encoder).
"""


def machine() -> str:
    """A description of this machine by its hardware."""
    cores = psutil.cpu_count() or 1
    memory = round(psutil.virtual_memory().total / (1 << 30) / 2) * 2
    system = {"darwin": "macOS"}.get(sys.platform, platform.system())
    back_end = "Metal" if sys.platform == "darwin" else "the CPU"
    return (
        f"{cores}-core {system} {platform.machine().replace('_', '-')}, {memory} GB, MLX on {back_end}"
    )


def page(outcomes: Iterable[Mapping[str, Any]], on: str) -> str:
    """The whole document. *outcomes*: the results of ``Outcome.as_json``."""
    outcomes = list(outcomes)
    parts = [
        _HEAD,
        f"Machine: {on}. The unit of times is one SHA-256 over the model's bytes on that machine.\n",
    ]
    parts.append("## Results\n\n| scenario | title | result | checks |\n|---|---|---|---|")
    for outcome in outcomes:
        checks = outcome["checks"]
        held = sum(1 for check in checks if check[1])
        parts.append(
            f"| {outcome['name']} | {outcome['title']} | {outcome['status']} | {held} of {len(checks)} |"
        )
    parts.append("\n## Checks and figures\n")
    parts += [_scenario(outcome) for outcome in outcomes]
    parts.append(_NEAR)
    return "\n".join(parts)


def _scenario(outcome: Mapping[str, Any]) -> str:
    lines = [f"### {outcome['name']}: {outcome['title']}\n"]
    if changes := outcome["changes"]:
        lines.append(
            f"Settings changed apart from ports and folders: {'; '.join(f'`{c}`' for c in changes)}.\n"
        )
    for what, held, words in outcome["checks"]:
        more = f": {_cell(words)}" if words else ""
        lines.append(f"- {'PASS' if held else '**FAIL**'} {what}{more}")
    lines += [f"- {what}: {value}" for what, value in outcome["facts"].items()]
    return "\n".join([*lines, ""])


def _cell(words: str) -> str:
    """One line of limited length."""
    line = " ".join(words.split())
    return line if len(line) <= 220 else f"{line[:220]} ..."
