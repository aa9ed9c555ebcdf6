"""Trains the flow together with both text encoders, on latents that are encoded once beforehand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from demo.training.flux.dimensions import TOKEN_PIXELS
from demo.training.flux.grading import grade
from demo.training.flux.paths import Latents, Schedule, encode_latents, sample_points
from demo.training.flux.prompts import PromptCoder
from demo.training.flux.run import MAIN_SIZE, SIZES, Run, learning_rate
from demo.training.flux.transformer import Net, initialize, rotary_table
from demo.training.flux.vae_training import load_vae

FILE = "net.pt"
BATCHES = {128: 512, 64: 1024, 192: 256, 256: 128}
MAIN_TURNS = (0, 1, 3, 4, 6, 7)  # of ten steps; the others alternate between the other sizes
REPORT_EVERY = 1000


@dataclass(frozen=True)
class FlowPass:
    seconds: float
    peak: float  # learning rate
    schedule: Schedule
    images: Mapping[int, int]  # to encode, by size
    seed: int
    spec_seed: int
    grade_every: int
    resume: bool = False  # continue from run.folder/net.pt


def load_net(run: Run) -> Net:
    net = Net(run.sizes).to(run.device)
    net.load_state_dict(torch.load(run.folder / FILE, map_location=run.device))
    return net


def train_flow(run: Run, coder: PromptCoder, settings: FlowPass) -> None:
    """Write run.folder/net.pt: the trained weights in fp32, to continue from or to export."""
    vae = load_vae(run)
    torch.manual_seed(settings.seed)
    net, average = Net(run.sizes).to(run.device), Net(run.sizes).to(run.device)
    initialize(net, run.sizes)
    if settings.resume:
        net = load_net(run)
    average.load_state_dict(net.state_dict())
    average.requires_grad_(False)
    parts = {"transformer": net.transformer, "T5": net.t5, "CLIP": net.clip}
    counts = (f"{name} {sum(p.numel() for p in m.parameters())}" for name, m in parts.items())
    run.say(f"flow: parameters {', '.join(counts)}")
    latents = {
        size: encode_latents(run, vae, coder, size, run.scaled(count), settings.spec_seed + size)
        for size, count in settings.images.items()
    }
    run.say("flow: latents ready")
    rate, optimizer = _optimizer(run, net)
    steps = {
        size: Step(run, net, average, optimizer, size, latents[size], settings.schedule)
        for size in BATCHES
    }
    for one in steps.values():
        one.capture()

    begun, step = time.monotonic(), 0
    losses, counted = torch.zeros((), device=run.device), 0
    while (share := (time.monotonic() - begun) / settings.seconds) < 1 and step < run.max_steps:
        _set_rate(run, rate, optimizer, learning_rate(settings.peak, share))
        size = _size_of_step(step)
        loss = steps[size]()
        step += 1
        if size == MAIN_SIZE:
            losses, counted = losses + loss, counted + 1
        if step % REPORT_EVERY == 0 or step == run.max_steps:
            rate_per_s = step / (time.monotonic() - begun)
            run.say(f"flow step {step}: loss {float(losses) / counted:.4f}, {rate_per_s:.1f} steps/s")
            losses, counted = torch.zeros((), device=run.device), 0
        if step % settings.grade_every == 0:
            grade(run, average, vae, coder, sizes=(MAIN_SIZE,), count=min(50, run.graded))
    run.say(f"flow: {step} steps")
    torch.save(average.state_dict(), run.folder / FILE)
    grade(run, average, vae, coder, steps=(4, 1, 2, 8))


def _size_of_step(step: int) -> int:
    if step % 10 in MAIN_TURNS:
        return SIZES[0]
    return SIZES[1 + (step // 10 * 4 + step % 10) % 3]


def _optimizer(run: Run, net: Net) -> tuple[Tensor, torch.optim.Optimizer]:
    """The rate is a tensor on the device, so that captured CUDA graphs read its latest value."""
    rate = torch.tensor(1e-4, device=run.device)
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    rest = [p for p in net.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": rest, "weight_decay": 0.0},
    ]
    betas = (0.9, 0.98)
    if not run.on_gpu:
        return rate, torch.optim.AdamW(groups, lr=1e-4, betas=betas)
    return rate, torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True, capturable=True)


def _set_rate(run: Run, rate: Tensor, optimizer: torch.optim.Optimizer, value: float) -> None:
    rate.fill_(value)
    if not run.on_gpu:
        for group in optimizer.param_groups:
            group["lr"] = value


class Step:
    """One training step at one image size, replayed from a CUDA graph if there is one."""

    def __init__(
        self,
        run: Run,
        net: Net,
        average: Net,
        optimizer: torch.optim.Optimizer,
        size: int,
        latents: Latents,
        schedule: Schedule,
    ) -> None:
        self._run, self._net, self._optimizer = run, net, optimizer
        self._latents, self._schedule = latents, schedule
        self._trained, self._averaged = list(net.parameters()), list(average.parameters())
        side = size // TOKEN_PIXELS
        self._table = rotary_table(run.sizes, side, side, run.device)
        self._count = run.scaled(BATCHES[size])
        self._points = sample_points(latents, self._count, schedule)  # a graph reads these tensors
        self._loss = torch.zeros((), device=run.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def capture(self) -> None:
        """Runs a few real steps to warm up. Without CUDA, or if it fails, steps stay eager."""
        if not self._run.on_gpu:
            return
        try:
            self._graph = self._captured()
        except RuntimeError as error:
            self._run.say(f"no CUDA graph, continuing without: {error!r:.300}")
            torch.cuda.synchronize()

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._optimizer.zero_grad(set_to_none=True)
                self._learn()
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._learn()
        return graph

    def __call__(self) -> Tensor:
        """The loss of a fresh batch, in a tensor that the next step overwrites."""
        fresh = sample_points(self._latents, self._count, self._schedule)
        for kept, new in zip(self._points, fresh, strict=True):
            kept.copy_(new)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._optimizer.zero_grad(set_to_none=True)
            self._learn()
        return self._loss

    def _learn(self) -> None:
        points = self._points
        x, texts = points.start, (points.t5_ids, points.clip_ids)
        with torch.autocast(self._run.device, torch.bfloat16, cache_enabled=False):
            if self._schedule.self_correcting:
                x = self._moved()
            velocity = self._net(x, points.time, *texts, self._table).float()
        target = (x - points.end) / points.sigma[:, None, None]
        loss = (((velocity - target) ** 2).mean((1, 2)) * points.weight).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0, foreach=True)
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._trained, 1e-3)
            self._loss.copy_(loss.detach())

    @torch.no_grad()
    def _moved(self) -> Tensor:
        """Move every second sample by one Euler step of the net (of length 0 where sigma is equal)."""
        points, even = self._points, slice(None, None, 2)
        x = points.start.clone()
        velocity = self._net(
            x[even],
            points.start_time[even],
            points.t5_ids[even],
            points.clip_ids[even],
            self._table,
        )
        stride = (points.sigma - points.start_sigma)[even, None, None]
        x[even] += stride * velocity.float()
        return x
