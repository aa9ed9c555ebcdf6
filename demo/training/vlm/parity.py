"""Do the PyTorch twin and mlx-vlm compute the same? Compares logits, through mlx-vlm's own processor.

    python -m demo.training.vlm.parity torch FOLDER DUMP.npz [--trained]    in torch's environment
    python -m demo.training.vlm.parity mlx   FOLDER DUMP.npz                in mlx-vlm's environment

Two steps, because torch and mlx-vlm need not share an environment. The first writes the logits to
DUMP.npz and the weights, in float32, to DUMP.npz.safetensors: fresh random ones, or those of FOLDER
with --trained. The second loads these weights through mlx-vlm, compares, and fails if any logit
differs by more than a thousandth of their range. FOLDER is not changed.

Measured (mlx 0.32.4 and torch 2.13, CPU, seven image sizes): random weights differ by 6e-6 of 7; the
shipped vlm-best by 2e-5 of 23, the shipped vlm-fast by 8e-5 of 37; the argmax is always the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from demo import world
from demo.world import Kind

QUESTION, ANSWER = "What is in this image?", "a red circle on a blue background"
CASES: list[tuple[Kind, tuple[int, int]]] = [
    ("one", (128, 128)),
    ("two", (200, 130)),
    ("word", (90, 150)),
    ("word", (256, 256)),
    ("two", (300, 200)),
    ("word", (240, 110)),
    ("one", (800, 600)),
]
TOLERANCE = 1e-3


def case_images() -> list[Image.Image]:
    rng = random.Random(5)
    return [world.render(world.random_scene(rng, kind), 128).resize(size) for kind, size in CASES]


def is_qwen(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config["model_type"] == "qwen2_5_vl")


def with_torch(folder: Path, dump: Path, trained: bool) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from demo.training.vlm.conversation import Coder
    from demo.training.vlm.images import QWEN_TOKEN, crops, smart_resize
    from demo.training.vlm.model import build

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    model, coder = build(folder).eval(), Coder(folder)
    if trained:
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({key: value.float() for key, value in weights.items()})
    else:
        for parameter in model.parameters():
            if parameter.ndim == 1:  # so that nothing stays 0 or 1
                parameter += 0.1 * torch.randn_like(parameter)
    row, _ = coder.turn(QUESTION, ANSWER)
    ids = torch.tensor([row])
    branch, position = torch.zeros_like(ids), torch.arange(len(row))[None]
    logits = {}
    for i, image in enumerate(case_images()):
        if coder.is_qwen:
            rows, columns = smart_resize(image.height, image.width)
            pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
            layout, prefix = None, coder.prefix(rows * columns // QWEN_TOKEN**2)
        else:
            (pixels, layout), prefix = crops(image), []
        images = torch.from_numpy(pixels[None].astype(np.float32)).movedim(-1, -3)
        common = (images, torch.tensor(prefix, dtype=torch.long))
        logits[f"l{i}"] = model.head(model(*common, ids, branch, position, layout))[0].numpy()
        if i == 0:  # the same branch twice in one row: the second must not attend to the first
            twice = (torch.cat([ids, ids], 1), torch.cat([branch, branch + 1], 1))
            both = model.head(model(*common, *twice, torch.cat([position] * 2, 1), layout))
            leak = np.abs(both[0].numpy()[len(row) :] - logits["l0"]).max()
            print(f"two branches of a row affect each other by {leak:.1e}")
    np.savez(dump, **logits)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, f"{dump}.safetensors", metadata={"format": "pt"})


def with_mlx(folder: Path, dump: Path) -> bool:
    import mlx.core as mx
    from mlx_vlm import apply_chat_template, load, prepare_inputs
    from mlx_vlm.models.moondream2 import processing_moondream2

    mx.set_default_device(mx.cpu)
    expected, qwen = np.load(dump), is_qwen(folder)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "checkpoint"
        shutil.copytree(folder, copy)
        shutil.copy(f"{dump}.safetensors", copy / "model.safetensors")
        processing_moondream2.TOKENIZER_REPO = str(copy)  # otherwise it contacts the Hub
        model, processor = load(str(copy))
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if qwen else 0
    answer = mx.array([[*tokenizer.encode(ANSWER, add_special_tokens=False), end]])
    prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
    equal = True
    for i, image in enumerate(case_images()):
        inputs = prepare_inputs(processor, images=[image], prompts=prompt)
        ids = mx.concatenate([inputs.pop("input_ids"), answer], 1)
        pixels, _ = inputs.pop("pixel_values"), inputs.pop("attention_mask", None)
        if qwen:
            embedded = model.get_input_embeddings(ids, pixels, mask=mx.ones_like(ids), **inputs)
            places = {"position_ids": embedded.position_ids}
        else:  # without a mask, as in generation
            embedded, places = model.get_input_embeddings(ids, pixels, **inputs), {}
        output = model.language_model(ids, inputs_embeds=embedded.inputs_embeds, **places)
        want = expected[f"l{i}"]
        got = np.array(output.logits[0].astype(mx.float32))[-len(want) :]
        error, scale = float(np.abs(got - want).max()), float(np.abs(want).max())
        same_choice = bool((got.argmax(-1) == want.argmax(-1)).all())
        equal = equal and same_choice and error <= TOLERANCE * scale
        print(
            f"{image.size}: {ids.shape[1]} tokens, differ by {error:.1e} of {scale:.1f}, "
            f"{'same' if same_choice else 'DIFFERENT'} argmax"
        )
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.training.vlm.parity")
    parser.add_argument("side", choices=["torch", "mlx"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--trained", action="store_true", help="use FOLDER's weights, not random ones")
    given = parser.parse_args()
    if given.side == "torch":
        with_torch(given.folder, given.dump, given.trained)
    elif not with_mlx(given.folder, given.dump):
        sys.exit("the twin and mlx-vlm differ")


if __name__ == "__main__":
    main()
