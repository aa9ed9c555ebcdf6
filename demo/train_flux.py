"""Train the image generation checkpoint from scratch.

    python -m demo.train_flux --out DIR             FLUX.1, 7.42 M parameters, about 18 minutes
    python -m demo.train_flux --out DIR --smoke     a few tiny steps of every stage, on a CPU

The stages, in order (--only runs some of them; --work holds the files between them):

    tokenizers   both tokenizers (needs transformers)
    vae          the VAE, 230 s
    flow         the flow and both text encoders, 330 s
    decoder      the VAE's decoder alone, with fixed latents, 250 s
    repair       the flow again, now also from states that its own steps reach, 255 s
    export       a checkpoint in mflux's layout

Needs requirements/train.txt and, for useful results, a GPU. The shipped checkpoint was made in these
four runs, with these settings, on one NVIDIA H200, by the scripts from which this one was cleaned up.
The seconds are wall-clock time, so another GPU runs another number of steps. This script ran the same
first steps as those on a CPU, and ran once completely on an H200 (demo/models/README.md).

Check afterwards that the PyTorch twins and mflux agree: see ``demo.training.flux.parity``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path

import torch

from demo.training.flux import flow_training, vae_training
from demo.training.flux.export import export
from demo.training.flux.flow_training import FlowPass, train_flow
from demo.training.flux.paths import FIRST_PASS, SECOND_PASS
from demo.training.flux.prompts import PromptCoder
from demo.training.flux.run import Run
from demo.training.flux.vae_training import VaePass, train_vae
from demo.training.flux.vocabulary import write_tokenizers

VAE = VaePass(seconds=230, peak=1.5e-3)
FLOW = FlowPass(
    seconds=330,
    peak=1.2e-3,
    schedule=FIRST_PASS,
    images={128: 150_000, 64: 30_000, 192: 24_000, 256: 20_000},
    seed=0,
    spec_seed=11,
    grade_every=8000,
)
DECODER = VaePass(seconds=250, peak=5e-4, decoder_only=True, seed=1)
REPAIR = FlowPass(
    seconds=255,
    peak=6e-4,
    schedule=SECOND_PASS,
    images={128: 80_000, 64: 20_000, 192: 13_333, 256: 10_000},
    seed=1,
    spec_seed=5011,
    grade_every=20_000,
    resume=True,
)

STAGES = ("tokenizers", "vae", "flow", "decoder", "repair", "export")


def stages(run: Run, out: Path, time_factor: float) -> dict[str, Callable[[], None]]:
    """The work of each stage by name, in order."""

    def vae(settings: VaePass) -> None:
        train_vae(run, replace(settings, seconds=settings.seconds * time_factor))

    def flow(settings: FlowPass) -> None:
        coder = PromptCoder(run.folder, run.sizes)
        train_flow(run, coder, replace(settings, seconds=settings.seconds * time_factor))

    def finish() -> None:
        vae_weights, net_weights = (
            torch.load(run.folder / file, map_location="cpu")
            for file in (vae_training.FILE, flow_training.FILE)
        )
        count = export(vae_weights, net_weights, run.folder, run.sizes, out)
        run.say(f"{out}: {count} parameters")

    return {
        "tokenizers": lambda: write_tokenizers(run.folder),
        "vae": lambda: vae(VAE),
        "flow": lambda: flow(FLOW),
        "decoder": lambda: vae(DECODER),
        "repair": lambda: flow(REPAIR),
        "export": finish,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.train_flux", description="Train the image generation checkpoint."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="folder for intermediate files; default: OUT.work")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, default=16, help="processes that render and judge")
    parser.add_argument("--time", type=float, default=1, help="multiplies the time of all stages")
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, on a CPU")
    given = parser.parse_args(arguments)
    work: Path = given.work or given.out.with_name(f"{given.out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if given.smoke:
        run = Run(work, "cpu", scale=0.001, max_steps=4, graded=2)
        run_stages(run, given.out, given.time, given.only)
        return
    with Pool(given.workers) as pool:  # before the device starts: a later fork would break it
        run_stages(Run(work, given.device, pool=pool), given.out, given.time, given.only)


def run_stages(run: Run, out: Path, time_factor: float, chosen: Sequence[str]) -> None:
    for name, work in stages(run, out, time_factor).items():
        if name in chosen:
            run.say(f"stage {name}")
            work()


if __name__ == "__main__":
    main()
