"""The training loop of both vision-language checkpoints.

The learning rate follows the elapsed time, not the step count, so the given seconds fix the whole
schedule on any machine; a faster one simply trains on more images. The loss for reading words stays
on a plateau and then drops at about 0.4 million images: a plateau before that is no failure.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from demo.training.vlm.batches import EXAM_BATCH, Batch, TrainingBatches, exam_batches
from demo.training.vlm.conversation import WEIGHTS
from demo.training.vlm.model import build

STARTUP_STEPS = 6  # the first batches arrive slowly and are not counted
REPORT_EVERY = 200


@dataclass(frozen=True)
class Settings:
    """Shipped: vlm-best 290 s, batch 256, rate 1.5e-3; vlm-fast 400 s, batch 128, rate 1.2e-3."""

    seconds: float
    batch: int
    learning_rate: float
    max_steps: int = 10**9
    tokens: int = 192  # of question / answer branches per image
    workers: int = 15  # processes that render images
    weight_decay: float = 0.05
    warmup_s: float = 12
    seed: int = 0
    init: str = ""  # weights to start from
    exam: int = 200  # scenes
    exams: int = 3  # including the last one


class Stopwatch:
    """Seconds of training, from ``start`` on and without pauses."""

    def __init__(self) -> None:
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.monotonic()

    def elapsed(self) -> float:
        return 0 if self._since is None else time.monotonic() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        if self._since is not None:
            self._since += time.monotonic() - begun


def train(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train the checkpoint whose other files are in the folder; write model.safetensors there."""
    begun = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(settings.seed)
    torch.set_float32_matmul_precision("high")
    batches = _loader(folder, settings, device)
    model = build(folder).to(device)
    if settings.init:
        model.load_state_dict({k: v.float() for k, v in load_file(settings.init).items()})
    _say(f"parameters {sum(p.numel() for p in model.parameters())} device {device}")
    optimizer = _optimizer(model, settings, device)

    model.train()
    watch, log, losses = Stopwatch(), [], []
    step = images = 0
    exams_at = [settings.seconds * (i + 1) / settings.exams for i in range(settings.exams - 1)]
    while True:
        batch = next(batches).to(device)
        elapsed = watch.elapsed()
        if elapsed > settings.seconds or step >= settings.max_steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, elapsed)
        losses.append(_step(model, optimizer, batch, device))
        step += 1
        images += 0 if batch.images is None else len(batch.ids)
        if step == STARTUP_STEPS:
            watch.start()
            _say(f"start-up {time.monotonic() - begun:.0f} s")
        if step <= STARTUP_STEPS or step % REPORT_EVERY == 0:
            loss, elapsed = torch.stack(losses).mean().item(), watch.elapsed()
            losses = []
            if not math.isfinite(loss):
                raise SystemExit("the loss is not finite")
            _say(f"step {step} after {elapsed:.0f} s: loss {loss:.4f}, {images} images")
            log.append([step, round(elapsed), round(loss, 4)])
        if exams_at and elapsed > exams_at[0]:
            exams_at.pop(0)
            with watch.paused():
                _say(json.dumps(exam(model, folder, settings.exam, device)))

    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    report = {
        "args": asdict(settings),
        "steps": step,
        "images": images,
        "seconds": round(time.monotonic() - begun),
        "log": log,
        "test": exam(model, folder, settings.exam, device),
    }
    (folder / "train.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    _say(json.dumps(report["test"]))
    return report


def learning_rate(settings: Settings, elapsed: float) -> float:
    """Linear warm-up, then a half cosine down to a hundredth."""
    if elapsed < settings.warmup_s:
        return settings.learning_rate * min(1, (elapsed + 0.5) / settings.warmup_s)
    share = min(1, elapsed / settings.seconds)
    return settings.learning_rate * max(0.01, 0.5 * (1 + math.cos(math.pi * share)))


def exam(model: nn.Module, folder: Path, count: int, device: str) -> dict[str, dict[str, float]]:
    """Share of tasks answered exactly, on fresh and on held-out scenes, with teacher forcing."""
    model.eval()
    tasks, results = list(WEIGHTS), {}
    for name, held_out, seed in (("fresh", False, 91), ("heldout", True, 92)):
        batches, scenes = exam_batches(folder, count, seed, held_out)
        hits: dict[str, list[bool]] = {task: [] for task in tasks}
        words: list[bool] = []
        for i, batch in enumerate(batches):
            batch = batch.to(device)
            with torch.no_grad():
                predicted = model.head(_hidden(model, batch, device).float()).argmax(-1)
            right = (predicted == batch.target) | (batch.target < 0)
            for branch, task in enumerate(tasks):
                answered = (right | (batch.branch != branch)).all(1).tolist()
                hits[task] += answered
                if task == "ocr":
                    batch_scenes = scenes[i * EXAM_BATCH : (i + 1) * EXAM_BATCH]
                    words += [hit for hit, s in zip(answered, batch_scenes, strict=True) if s.word]
        results[name] = {task: round(sum(hit) / len(hit), 3) for task, hit in hits.items()}
        if words:
            results[name]["ocr_words"] = round(sum(words) / len(words), 3)
    model.train()
    return results


def _loader(folder: Path, settings: Settings, device: str) -> Iterator[Batch]:
    data = TrainingBatches(folder, settings.batch, settings.tokens, settings.seed)
    return iter(
        DataLoader(
            data,
            batch_size=None,
            num_workers=settings.workers,
            prefetch_factor=4 if settings.workers else None,
            pin_memory=device == "cuda",
        )
    )


def _optimizer(model: nn.Module, settings: Settings, device: str) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": rest, "weight_decay": 0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.97),
        fused=device == "cuda",
    )


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, device: str) -> Tensor:
    hidden = _hidden(model, batch, device, augment=True)
    target = batch.target.flatten()
    counts = target >= 0
    logits = model.head(hidden.flatten(0, 1)[counts].float())
    loss = F.cross_entropy(logits, target[counts].long())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _hidden(model: nn.Module, batch: Batch, device: str, augment: bool = False) -> Tensor:
    images = batch.images
    if images is not None:
        images = images.movedim(-1, -3).float()
        several_crops = images.ndim == 5 and images.shape[1] > 1  # these must stay one image
        if augment and not several_crops:
            with torch.no_grad():
                images = _jitter(images.reshape(-1, *images.shape[-3:])).view(images.shape)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        return model(
            images,
            batch.prefix,
            batch.ids.long(),
            batch.branch.int(),
            batch.position.long(),
            batch.layout,
        )


def _jitter(images: Tensor) -> Tensor:
    """(n, 3, H, W) in 0..255: colour, noise and smooth shading on about half of the images."""
    count, _, height, width = images.shape
    device = images.device

    def between(low: float, high: float, channels: int) -> Tensor:
        return torch.rand(count, channels, 1, 1, device=device) * (high - low) + low

    changed = images * between(0.93, 1.07, 3) * between(0.94, 1.06, 1) + between(-10, 10, 1)
    changed = changed + torch.randn_like(images) * between(0, 12, 1)
    shade = torch.randn(count, 3, 5, 5, device=device)
    shade = F.interpolate(shade, (height, width), mode="bilinear")
    changed = changed + shade * between(0, 8, 1)
    chosen = torch.rand(count, 1, 1, 1, device=device) < 0.55
    return torch.where(chosen, changed.clamp(0, 255), images)


def _say(text: str) -> None:
    print(text, flush=True)
