"""Do the PyTorch twins and mflux compute the same? Compares each part, with the worker's own loader.

    python -m demo.training.flux.parity torch CHECKPOINT DIR [--trained]    in torch's environment
    python -m demo.training.flux.parity mflux DIR                           in mflux's environment

Two steps, because torch and mflux need not share an environment. The first takes tokenizers and
sizes from CHECKPOINT and writes to DIR a checkpoint (fresh random weights in fp32, or with --trained
CHECKPOINT unchanged) and the twins' results. The second loads that checkpoint, compares, and fails if
any part differs by more than a thousandth.

Measured (mflux 0.24.0 on mlx 0.32.4, torch 2.13, CPU): equal ids; random weights differ by at most
2.4e-5 (decoder), the shipped image-gen by 1.3e-5.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from demo.training.flux.dimensions import Dimensions

PROMPTS = [
    "a red circle on a blue background",
    "A yellow Star to the left of a WHITE square on a red background.",
    "zebra, Ünïcode 42!",
]
HEIGHT, WIDTH = 96, 128
SIGMA = 0.75
TOLERANCE = 1e-3


def with_torch(source: Path, folder: Path, trained: bool) -> None:
    import torch

    from demo.training.flux.export import export, load_checkpoint
    from demo.training.flux.prompts import PromptCoder
    from demo.training.flux.transformer import Net, initialize, rotary_table
    from demo.training.flux.vae import VAE, pack, unpack

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    sizes = Dimensions(**json.loads((source / "tiny.json").read_text(encoding="utf-8")))
    net, vae, coder = Net(sizes), VAE(sizes), PromptCoder(source, sizes)
    checkpoint = folder / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    if trained:
        vae_weights, net_weights = load_checkpoint(source)
        vae.load_state_dict(vae_weights)
        net.load_state_dict(net_weights)
        shutil.copytree(source, checkpoint)
    else:
        initialize(net, sizes)
        for name, parameter in [*net.named_parameters(), *vae.named_parameters()]:
            if "norm" in name or name.endswith("bias") or "proj_out" in name:
                parameter += 0.1 * torch.randn_like(parameter)  # so that nothing stays 0 or 1
        export(vae.state_dict(), net.state_dict(), source, sizes, checkpoint, torch.float32)
    t5_ids, clip_ids = (torch.tensor(ids) for ids in coder(PROMPTS))
    image = torch.rand(1, 3, HEIGHT, WIDTH) * 2 - 1
    latents = vae.encode(image)
    packed, rows, columns = pack(latents), HEIGHT // 16, WIDTH // 16
    time, table = torch.tensor([1000 * SIGMA]), rotary_table(sizes, rows, columns)
    results = {
        "t5_ids": t5_ids,
        "clip_ids": clip_ids,
        "t5": net.t5(t5_ids),
        "clip": net.clip(clip_ids),
        "image": image,
        "latents": latents,
        "decoded": vae.decode(latents),
        "packed": packed,
        "unpacked": unpack(packed, rows, columns),
        "velocity": net(packed, time, t5_ids[1:2], clip_ids[1:2], table),
    }
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in results.items()})


def with_mflux(folder: Path) -> bool:
    from workers.backend import runtime

    runtime.prepare()
    import mlx.core as mx
    from mflux.models.flux.latent_creator.flux_latent_creator import FluxLatentCreator

    from contracts.settings.models import ImageSettings
    from workers.image import families

    checkpoint, expected = folder / "checkpoint", np.load(folder / "expected.npz")
    settings = ImageSettings(
        kind="image", path=str(checkpoint), port=1, memory_gb=1, family="flux1-schnell"
    )
    model = families.load(checkpoint, settings).model
    equal = True

    def compare(name: str, got: mx.array, want: np.ndarray) -> None:
        nonlocal equal
        values = np.array(got.astype(mx.float32))
        error = float(np.abs(values - want).max() / max(1, np.abs(want).max()))
        equal = equal and error <= TOLERANCE
        print(f"{name}: {values.shape}, off by {error:.1e}{'' if error <= TOLERANCE else ' WRONG'}")

    for i, prompt in enumerate(PROMPTS):
        one = slice(i, i + 1)
        t5_ids = model.tokenizers["t5"].tokenize(prompt).input_ids
        clip_ids = model.tokenizers["clip"].tokenize(prompt).input_ids
        print(repr(prompt))
        compare("  T5 ids", t5_ids, expected["t5_ids"][one])
        compare("  CLIP ids", clip_ids, expected["clip_ids"][one])
        compare("  T5", model.t5_text_encoder(t5_ids), expected["t5"][one])
        compare("  CLIP", model.clip_text_encoder(clip_ids), expected["clip"][one])
    latents, packed = mx.array(expected["latents"]), mx.array(expected["packed"])
    encoded = model.vae.encode(mx.array(expected["image"]))
    compare("encode", encoded[:, :, 0], expected["latents"])
    compare("decode", model.vae.decode(latents)[:, :, 0], expected["decoded"])
    creator = FluxLatentCreator
    compare("pack", creator.pack_latents(latents, HEIGHT, WIDTH), expected["packed"])
    compare("unpack", creator.unpack_latents(packed, HEIGHT, WIDTH), expected["unpacked"])
    velocity = model.transformer(
        t=0,
        config=SimpleNamespace(
            height=HEIGHT,
            width=WIDTH,
            scheduler=SimpleNamespace(sigmas=mx.array([SIGMA])),
            num_train_steps=1000,
            precision=mx.float32,
            guidance=4.0,
        ),
        hidden_states=packed,
        prompt_embeds=mx.array(expected["t5"][1:2]),
        pooled_prompt_embeds=mx.array(expected["clip"][1:2]),
    )
    compare("velocity", velocity, expected["velocity"])
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.training.flux.parity")
    sides = parser.add_subparsers(dest="side", required=True)
    torch_side, mflux_side = sides.add_parser("torch"), sides.add_parser("mflux")
    torch_side.add_argument("checkpoint", type=Path)
    torch_side.add_argument("folder", type=Path)
    torch_side.add_argument("--trained", action="store_true", help="use CHECKPOINT's own weights")
    mflux_side.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.side == "torch":
        given.folder.mkdir(parents=True, exist_ok=True)
        with_torch(given.checkpoint, given.folder, given.trained)
    elif not with_mflux(given.folder):
        sys.exit("the twins and mflux differ")


if __name__ == "__main__":
    main()
