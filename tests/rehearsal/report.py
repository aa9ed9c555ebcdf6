"""docs/dev/rehearsal.md from what was kept of each scenario. Pure, but for ``machine``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

_HEAD = """# The rehearsal: the shipped settings on checkpoints of the published layouts

`make rehearsal` writes this page. A test server plays the Hugging Face Hub and serves the models of
config.yaml and config.16gb.yaml under their own ids: the published file names, tensor names, types, shapes
and byte counts, with random weights. The real stack starts from an empty cache and answers what a
first user asks. `ARGS="--only NAME"` plays one scenario, `ARGS=--rest` those that have not passed yet;
`ARGS=--list` names them. It takes up to 26 GB of disk, 14 GB of free memory and, on a machine
with nothing else to do, about half an hour; everything
is removed afterwards (`--keep` keeps it). Needs npm and pip, for the tokenizers.

The result of each scenario is kept until it is played again, so this page can hold several runs, also of
different commits.

What it shows: downloads, caches, words of errors, loads, footprints, tokenizers, templates, grammars. What
it can't show: what real weights say or draw, and anything of Metal.
"""

_NEAR = """## How near the checkpoints are

| model | how near | what is a stand-in |
|---|---|---|
| vikhyatk/moondream2 | weights of the published byte count, the published config.json, the stale tokenizer and the code files beside them | the merges of moondream/starmie-v1; its control tokens and size are real |
| mlx-community/Qwen2.5-VL-7B- and 3B-Instruct-4bit | published layout in float16 at 4 bit, Qwen's real tokenizer, the published template | nothing but the weights |
| madroid/flux.1-schnell-mflux-4bit | names and shapes from the classes of mflux 0.2.0, which saved it; CLIP's real tokenizer | T5's tokenizer |
| black-forest-labs/FLUX.2-klein-4B | its authors' names by mflux's mapping, Qwen3's real tokenizer and template | nothing but the weights |
| black-forest-labs/FLUX.1-dev | that it is gated | all else: nothing of it is fetched |

MLX's CPU back end multiplies quantized 16-bit weights at well under 0.1 GFLOP/s. So only Moondream2 answers
at its full size here; the others are followed until all weights are in memory. Answers, tools, JSON and
images come from models with the real tokenizer and fewer, narrower layers (Qwen2.5-VL: 2 layers of 256,
float32; Moondream2: 1 layer in each tower; FLUX.1: one block of each kind at the true width; klein: one block
of each kind and a narrow text encoder).
"""


def machine() -> str:
    """The kind of this machine."""
    cores = psutil.cpu_count() or 1
    memory = round(psutil.virtual_memory().total / (1 << 30) / 2) * 2
    system = {"darwin": "macOS"}.get(sys.platform, platform.system())
    back_end = "Metal" if sys.platform == "darwin" else "the CPU"
    return (
        f"{cores}-core {system} {platform.machine().replace('_', '-')}, {memory} GB, MLX on {back_end}"
    )


def page(outcomes: Iterable[Mapping[str, Any]], on: str) -> str:
    """The whole document. *outcomes*: as ``Outcome.as_json`` made them."""
    outcomes = list(outcomes)
    parts = [_HEAD, f"Machine: {on}. Times are in units of one SHA-256 over the model's bytes there.\n"]
    parts.append("## Results\n\n| scenario | what | result | checks |\n|---|---|---|---|")
    for told in outcomes:
        held = sum(1 for check in told["checks"] if check[1])
        parts.append(
            f"| {told['name']} | {told['title']} | {told['status']} | {held} of {len(told['checks'])} |"
        )
    parts.append("\n## What was seen\n")
    parts += [_scenario(told) for told in outcomes]
    parts.append(_NEAR)
    return "\n".join(parts)


def _scenario(told: Mapping[str, Any]) -> str:
    lines = [f"### {told['name']}: {told['title']}\n"]
    if told["changes"]:
        lines.append(
            f"Changed beside ports and folders: {'; '.join(f'`{c}`' for c in told['changes'])}.\n"
        )
    for what, held, words in told["checks"]:
        more = f": {_cell(words)}" if words else ""
        lines.append(f"- {'PASS' if held else '**FAIL**'} {what}{more}")
    lines += [f"- {what}: {value}" for what, value in told["facts"].items()]
    return "\n".join([*lines, ""])


def _cell(words: str) -> str:
    """One line, not too long, without this machine's folders."""
    told = " ".join(words.split())
    return told if len(told) <= 220 else f"{told[:220]} ..."
