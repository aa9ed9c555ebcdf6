"""What people read: rows of tables, and how far something is, in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.control import Download, ManagerStatus, ModelStatus, WorkerState
from contracts.wire.models import ModelObject
from hostctl.status import span

# Control characters, and what turns the direction of writing: a model's words steer no terminal.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STEPS = re.compile(r"step (\d+) of (\d+)(?:, picture (\d+) of (\d+))?")
_PERCENT = re.compile(r"downloading (\d+) %")
_ERROR_ROOM = 200  # characters


def shown(text: str) -> str:
    """*text* from outside as a terminal may have it: line feeds and tabs stay."""
    return _UNSHOWN.sub("", text)


# --- tables --------------------------------------------------------------------------------------

PS_HEAD = ("NAME", "STATE", "SIZE", "CHARGED", "OPEN", "QUEUE", "SERVED", "IDLE", "UP")
MODELS_HEAD = ("NAME", "KIND", "STATE", "SIZE", "CAN", "ALSO", "PATH")


def ps_rows(status: ManagerStatus) -> list[tuple[str, ...]]:
    """A row for each model that is in memory, on its way there or out, or has failed."""
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
    """What stands below the table: why models failed, and the memory."""
    notes = [
        f"{alias}: {' '.join(model.last_error.split())[:_ERROR_ROOM]}"
        for alias, model in status.models.items()
        if model.status is WorkerState.FAILED and model.last_error
    ]
    memory = status.memory
    pressure = "" if memory.pressure == "normal" else f"; memory pressure: {memory.pressure}"
    charged = f"{memory.models_loaded_gb:.1f} of {memory.budget_gb:.1f} GB are charged"
    machine = f"{memory.used_gb:.1f} of {memory.total_gb:.1f} GB of the machine in use"
    return [*notes, f"{charged}; {machine}{pressure}"]


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


# --- how far something is ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProgressNote:
    """What is going on; ``total`` 0: nobody knows how much it is."""

    text: str
    done: float = 0
    total: float = 0


def comment(text: str) -> ProgressNote:
    """A comment of a stream: ``step 2 of 4, picture 1 of 3, about 12 s left``, ``loading``."""
    if found := _STEPS.match(text):
        step, steps, picture, pictures = (int(group or 1) for group in found.groups())
        return ProgressNote(text, (picture - 1) * steps + step, pictures * steps)
    if found := _PERCENT.match(text):
        return ProgressNote(text, int(found[1]), 100)
    return ProgressNote(text)


def waiting(status: ManagerStatus, name: str | None) -> ProgressNote | None:
    """What a request for *name* (None: for a model that the gateway chooses) waits for."""
    models = status.models
    if name not in models:
        # By another of its names, or a default: the one that is being loaded will be it.
        starting = [a for a, m in models.items() if m.status is WorkerState.STARTING]
        if len(starting) != 1:
            return None
        (name,) = starting
    assert name is not None
    model = models[name]
    if model.status is WorkerState.STARTING:
        told = loading(model)
        return ProgressNote(f"{name}: {told.text}", told.done, told.total)
    if model.status is WorkerState.READY:
        drawing = model.drawing
        if drawing.steps:
            done = (drawing.picture - 1) * drawing.steps + drawing.step
            return ProgressNote(f"{name}: drawing", done, drawing.pictures * drawing.steps)
        return ProgressNote(f"{name}: at work")
    return ProgressNote(f"{name}: waiting for memory")


def loading(model: ModelStatus) -> ProgressNote:
    """How far the load of *model* is."""
    if model.phase.startswith("downloading") and model.download.total_bytes:
        return downloading(model.download)
    return ProgressNote(model.phase or "starting")


def downloading(download: Download, alias: str = "") -> ProgressNote:
    """``downloading 1.2 of 3.4 GB, about 2m 5s``, after *alias* if there is one."""
    before = f"{alias}: " if alias else ""
    if not download.total_bytes:
        return ProgressNote(f"{before}downloading")
    left = f", about {span(download.eta_seconds)}" if download.eta_seconds >= 1 else ""
    done, total = (f"{part / 1e9:.2f}" for part in (download.done_bytes, download.total_bytes))
    return ProgressNote(
        f"{before}downloading {done} of {total} GB{left}", download.done_bytes, download.total_bytes
    )


def to_fetch(missing: Mapping[str, str], free_bytes: int, folder: Path) -> str:
    """What `pull` says before it fetches anything; *missing*: alias -> repository."""
    names = ", ".join(f"{alias} ({repository})" for alias, repository in missing.items())
    return f"to fetch: {names}; {free_bytes / 1e9:.0f} GB are free in {folder}"


def size_to_fetch(download: Download, alias: str) -> str:
    """How much of *alias* there is to fetch, once the hub has said it."""
    left = (download.total_bytes - download.done_bytes) / 1e9
    there = f", {download.done_bytes / 1e9:.2f} GB are there" if download.done_bytes else ""
    return f"{alias}: {left:.2f} GB to fetch{there}"
