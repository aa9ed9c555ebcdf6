"""Train a vision-language checkpoint from scratch.

    python -m demo.train_vlm vlm-best --out DIR     Qwen2.5-VL, 3.67 M parameters
    python -m demo.train_vlm vlm-fast --out DIR     Moondream2, 3.69 M parameters
    python -m demo.train_vlm vlm-best --out DIR --smoke     a few tiny steps, to see that it runs

Needs requirements/train.txt and, for useful results, a GPU. The shipped checkpoints were made with the
settings of the first two commands on one NVIDIA H200 (290 s and 400 s of training, 15 processes
rendering images), by the script from which this one was cleaned up. This one ran the same first steps
on a CPU, and ran once completely on an H200 (demo/models/README.md).

Check afterwards that the PyTorch twin and mlx-vlm agree: see ``demo.training.vlm.parity``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from demo.training.vlm.checkpoint import Alias, write_files
from demo.training.vlm.training import Settings, train

SHIPPED: dict[Alias, Settings] = {
    "vlm-best": Settings(seconds=290, batch=256, learning_rate=1.5e-3),
    "vlm-fast": Settings(seconds=400, batch=128, learning_rate=1.2e-3),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.train_vlm", description="Train a vision-language demo checkpoint."
    )
    parser.add_argument("alias", choices=list(SHIPPED))
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seconds", type=float, help="training time; fixes the whole schedule")
    parser.add_argument("--batch", type=int, help="images per step")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--workers", type=int, help="processes that render images")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--init", help="model.safetensors to start from")
    parser.add_argument("--exam", type=int, help="scenes per exam")
    parser.add_argument("--smoke", action="store_true", help="eight tiny steps")
    given = vars(parser.parse_args(arguments))
    alias, out, smoke = given.pop("alias"), given.pop("out"), given.pop("smoke")
    settings: Settings = SHIPPED[alias]
    if smoke:
        settings = replace(settings, max_steps=8, batch=2, workers=0, exam=4)
    settings = replace(settings, **{key: value for key, value in given.items() if value is not None})
    write_files(alias, out)
    train(out, settings)


if __name__ == "__main__":
    main()
