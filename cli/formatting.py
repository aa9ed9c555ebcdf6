"""Format tables and progress as text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.control import Download, ManagerStatus, ModelStatus, WorkerState
from contracts.wire.models import ModelObject
from hostctl.status import span

# Control and bidirectional characters: output of a model must not control the terminal.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STEPS = re.compile(r"step (\d+) of (\d+)(?:, [a-z]+ (\d+) of (\d+))?")
_PERCENT = re.compile(r"downloading (\d+) %")
_ERROR_LENGTH = 200  # characters


def printable(text: str) -> str:
    """*text* without control characters, except line feeds and tabs."""
    return _UNSAFE.sub("", text)


# --- tables --------------------------------------------------------------------------------------

PS_HEAD = ("NAME", "STATE", "SIZE", "CHARGED", "OPEN", "QUEUE", "SERVED", "IDLE", "UP")
MODELS_HEAD = ("NAME", "KIND", "STATE", "SIZE", "CAN", "ALSO", "PATH")


def ps_rows(status: ManagerStatus) -> list[tuple[str, ...]]:
    """One row per model that is loaded, loading, unloading, queued or failed."""
    rows: list[tuple[str, ...]] = []
    for alias, model in status.models.items():
        if model.status is WorkerState.STOPPED and not model.queued:
            continue
        worker = status.workers.get(alias)
        rows.append(
            (
                alias,
                _state(model),
                f"{model.measured_gb:.1f} GB",
                f"{model.memory_gb:.1f} GB" if model.status is not WorkerState.FAILED else "-",
                str(worker.active_requests if worker else 0),
                str(model.queued),
                str(worker.request_count if worker else 0),
                _idle(model, worker.idle_seconds if worker and not worker.active_requests else None),
                span(worker.uptime_seconds) if worker else "-",
            )
        )
    return rows


def ps_notes(status: ManagerStatus) -> list[str]:
    """The lines below the table: errors of failed models, memory, and the reason of the budget."""
    notes = [
        f"{alias}: {' '.join(model.last_error.split())[:_ERROR_LENGTH]}"
        for alias, model in status.models.items()
        if model.status is WorkerState.FAILED and model.last_error
    ]
    memory = status.memory
    pressure = "" if memory.pressure == "normal" else f"; memory pressure: {memory.pressure}"
    charged = f"{memory.models_loaded_gb:.1f} of {memory.budget_gb:.1f} GB budget charged"
    machine = f"{memory.used_gb:.1f} of {memory.total_gb:.1f} GB machine memory in use"
    notes.append(f"{charged}; {machine}{pressure}")
    if memory.budget_reason:
        notes.append(f"budget: {memory.budget_reason}")
    return notes


def _state(model: ModelStatus) -> str:
    if model.status is WorkerState.STARTING:
        return loading(model).text
    return model.status.value


def _idle(model: ModelStatus, idle_s: float | None) -> str:
    if model.pinned:
        return "pinned"
    return "-" if idle_s is None else span(idle_s)


def model_row(model: ModelObject) -> tuple[str, ...]:
    can = ", ".join(model.capabilities)
    kind = model.family or model.kind
    return (
        model.id, kind, model.state, f"{model.memory_gb:.1f} GB", can, ", ".join(model.names) or "-",
        model.path + (f"@{model.revision[:10]}" if model.revision else ""),
    )  # fmt: skip


# --- progress ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProgressNote:
    """A line of progress; ``total`` 0: unknown."""

    text: str
    done: float = 0
    total: float = 0


def comment(text: str) -> ProgressNote:
    """Parse a comment of a stream: ``step 2 of 4, image 1 of 3, about 12 s left``, ``loading``."""
    if found := _STEPS.match(text):
        step, steps, image, images = (int(group or 1) for group in found.groups())
        return ProgressNote(text, (image - 1) * steps + step, images * steps)
    if found := _PERCENT.match(text):
        return ProgressNote(text, int(found[1]), 100)
    return ProgressNote(text)


def waiting(status: ManagerStatus, name: str | None) -> ProgressNote | None:
    """What a request for model *name* (None: the default model) waits for; None: unknown."""
    models = status.models
    if name not in models:
        # Another name of a model, or the default: if only one model is loading, it is that one.
        starting = [a for a, m in models.items() if m.status is WorkerState.STARTING]
        if len(starting) != 1:
            return None
        (name,) = starting
    assert name is not None
    model = models[name]
    if model.status is WorkerState.STARTING:
        progress = loading(model)
        return ProgressNote(f"{name}: {progress.text}", progress.done, progress.total)
    if model.status is WorkerState.READY:
        image = model.drawing
        if image.steps:
            done = (image.picture - 1) * image.steps + image.step
            return ProgressNote(f"{name}: generating", done, image.pictures * image.steps)
        return ProgressNote(f"{name}: working")
    return ProgressNote(f"{name}: waiting for memory")


def loading(model: ModelStatus) -> ProgressNote:
    """The progress of loading *model*."""
    if model.phase.startswith("downloading") and model.download.total_bytes:
        return downloading(model.download)
    return ProgressNote(model.phase or "starting")


def downloading(download: Download, alias: str = "") -> ProgressNote:
    """``downloading 1.2 of 3.4 GB, about 2m 5s``, with *alias* in front if given."""
    before = f"{alias}: " if alias else ""
    if not download.total_bytes:
        return ProgressNote(f"{before}downloading")
    left = f", about {span(download.eta_seconds)}" if download.eta_seconds >= 1 else ""
    done, total = (f"{part / 1e9:.2f}" for part in (download.done_bytes, download.total_bytes))
    return ProgressNote(
        f"{before}downloading {done} of {total} GB{left}", download.done_bytes, download.total_bytes
    )


def to_fetch(missing: Mapping[str, str], free_bytes: int, folder: Path) -> str:
    """The first line of `pull`; *missing*: alias -> repository."""
    names = ", ".join(f"{alias} ({repository})" for alias, repository in missing.items())
    return f"to download: {names}; {free_bytes / 1e9:.0f} GB free in {folder}"


def size_to_fetch(download: Download, alias: str) -> str:
    """The size of the download of *alias*, when it is known."""
    left = (download.total_bytes - download.done_bytes) / 1e9
    done = f", {download.done_bytes / 1e9:.2f} GB already done" if download.done_bytes else ""
    return f"{alias}: {left:.2f} GB to download{done}"
