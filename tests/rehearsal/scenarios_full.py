"""The models of config.yaml and config.16gb.yaml at their published sizes.

MLX's CPU back end would need hours for an image with quantized float16 weights. So these loads are
observed until all weights are in memory ("warming up"), when the footprint is visible; only Moondream2,
which is not quantized, completes prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.rehearsal import image_models, qwen25
from tests.rehearsal.hub import Files
from tests.rehearsal.running import Running, error_or_usage
from tests.rehearsal.scenario import scenario
from tests.rehearsal.stage import GIB, Stage

_VLM = (".json", ".jsonl", ".safetensors", ".model", ".tiktoken", ".txt", ".jinja")
_WARM = "warming up"
_START_TIMEOUT_S = 1800  # at these sizes a CPU warms up for longer than the shipped 300 s


@scenario("moondream2", "config.yaml, vlm-fast at full size, from an empty cache", disk=5, memory=7)
def moondream2(stage: Stage) -> None:
    idle_s = 8
    config = stage.config("config.yaml", {"manager.idle_timeout_s": idle_s})
    hub, alias = stage.hub, "vlm-fast"
    files = stage.publish_moondream(config)
    total = _download_bytes(files)
    # Slow enough to be observed, cut, and stopped half way.
    hub.bytes_per_second, hub.cut_after = 150e6, 1 << 30
    with stage.stack(config) as running:
        running.start(lambda: running.chat(alias))
        seen = running.watch.models[alias]
        running.wait(
            "half of the download", lambda: seen.downloads and seen.downloads[-1][1] > total / 2
        )
        _check_progress(stage, seen.downloads, total)
    cuts = [s.start for s in hub.downloads("model.safetensors")]
    stage.check("a broken connection is resumed at its byte offset", any(cuts), cuts)
    with stage.stack(config) as running:
        answer = running.start(lambda: running.chat(alias)).answer()
        stage.check("the first request succeeds", answer.status_code == 200, error_or_usage(answer))
        sent = hub.sent("model.safetensors")
        size = files["model.safetensors"].size
        stage.check(
            "a restart downloads nothing twice", sent < size * 1.02, f"{sent / size:.3f} x the file"
        )
        _note_footprint(stage, running, alias)
        model = running.model(alias)
        stage.check(
            "a text prompt does not lower the charge",
            model.memory_gb >= model.declared_gb,
            f"{model.memory_gb:.2f} of {model.declared_gb:.2f} GiB declared",
        )
        running.unloaded(alias, idle_s + 60)
        charged = running.status().memory.models_loaded_gb
        stage.check("it is unloaded after the idle timeout", charged == 0, f"{charged} GiB charged")
        stage.note("learned peak", f"{running.model(alias).learned_gb:.2f} GiB")
        hub.close()
        before = len(hub.seen)
        begun = time.monotonic()
        answer = running.chat(alias)
        stage.check(
            "it loads again without the network", answer.status_code == 200, error_or_usage(answer)
        )
        stage.check("that load sent no request to the Hub", len(hub.seen) == before)
        _note_time(stage, "second load and completion", time.monotonic() - begun, total)


@scenario("qwen-7b", "config.yaml, vlm-best at full size: download and load", disk=7, memory=10)
def qwen_7b(stage: Stage) -> None:
    _loads(
        stage, "config.yaml", "vlm-best", lambda: qwen25.repository(qwen25.SEVEN_B, stage.packages), 9
    )


@scenario("schnell", "config.yaml, image-gen at full size: download and load", disk=11, memory=14)
def schnell(stage: Stage) -> None:
    _loads(stage, "config.yaml", "image-gen", lambda: image_models.schnell(stage.packages), 12.5)


def _loads(stage: Stage, shipped: str, alias: str, make: Callable[[], Files], most_gb: float) -> None:
    config = stage.config(shipped)
    files = make()
    stage.publish(config, alias, files)
    with stage.stack(config, most_gb=most_gb) as running:
        _start_load(running, alias)
        _until_warming_up(stage, running, alias, files)
        _settle(running, alias, 10)
        _note_footprint(stage, running, alias)


@scenario("16gb", "config.16gb.yaml, vlm-best and image-gen at full size, together", disk=26, memory=13)
def sixteen(stage: Stage) -> None:
    # The default budget of a Mac with 16 GB: 75 % of it.
    config = stage.config(
        "config.16gb.yaml",
        {"memory.max_unified_memory_gb": 12, "manager.start_timeout_s": _START_TIMEOUT_S},
    )
    made: dict[str, Files] = {
        "image-gen": image_models.klein(stage.packages),
        "vlm-best": qwen25.repository(qwen25.THREE_B, stage.packages),
    }
    for alias, files in made.items():
        stage.publish(config, alias, files)
    with stage.stack(config, most_gb=9.5) as running:
        for alias, files in made.items():
            _start_load(running, alias)
            _until_warming_up(stage, running, alias, files)
        # The first prompt loads the text encoder and quantizes it, as each new prompt does.
        _settle(running, "image-gen", 60, 240)
        _note_footprint(stage, running, "vlm-best")
        _note_footprint(stage, running, "image-gen", when=" at its first load")
        budget = running.status().memory.budget_gb
        together = running.watch.together / GIB
        stage.check(
            "together they stay within the budget",
            together <= budget,
            f"{together:.2f} of {budget:.2f} GiB",
        )
        states = {alias: str(running.model(alias).status) for alias in made}
        stage.check(
            "neither was evicted for the other", set(states.values()) <= {"starting", "ready"}, states
        )
    _loads_again(stage, config)


def _loads_again(stage: Stage, config: Path) -> None:
    """Load from the 4-bit copy that the first load saved."""
    before, alias = stage.hub.sent(), "image-gen"
    with stage.stack(config, most_gb=9.5) as running:
        _start_load(running, alias)
        seen = running.watch.models[alias]
        running.wait(f"{alias} is loaded again", lambda: _WARM in seen.phases or "ready" in seen.phases)
        _settle(running, alias, 30)
        _note_footprint(stage, running, alias, when=" at its second load")
        stage.check("the second load downloads nothing", stage.hub.sent() == before)
    copies = list((stage.home / "hub").glob("models--*/vision-insight/*"))
    stage.check("the first load left a copy at 4 bits", bool(copies), len(copies))


def _start_load(running: Running, alias: str) -> None:
    """Load *alias* by a request, as a client's first request does."""
    if running.stack.settings.models[alias].kind == "vlm":
        running.start(lambda: running.chat(alias))
    else:
        body = {"model": alias, "prompt": "a red circle", "size": "64x64", "steps": 1}
        running.start(lambda: running.post("/v1/images/generations", body))


def _until_warming_up(stage: Stage, running: Running, alias: str, files: Files) -> None:
    seen = running.watch.models[alias]

    def loaded() -> bool:
        if seen.errors:
            raise RuntimeError(seen.errors[-1])
        return _WARM in seen.phases or "ready" in seen.phases

    running.wait(f"{alias} is loaded", loaded)
    weights = sum(blob.size for name, blob in files.items() if name.endswith(".safetensors"))
    stage.note(f"{alias}: published weights", f"{weights / 1e9:.2f} GB")
    times = seen.phases
    stage.check(
        f"{alias}: download progress is reported", bool(seen.downloads), f"{len(seen.downloads)} times"
    )
    begun, warm = times.get("loading"), times.get(_WARM, times.get("ready"))
    if begun is not None and warm is not None:
        _note_time(stage, f"{alias}: load without the download", warm - begun, weights)
    stage.check(f"{alias}: all weights are in memory", True, _WARM)


def _settle(running: Running, alias: str, quiet_s: float, limit_s: float = 120) -> None:
    """Wait until the footprint of *alias* has not grown for *quiet_s*."""
    seen = running.watch.models[alias]
    most, since = seen.footprint, time.monotonic()
    deadline = since + limit_s
    while time.monotonic() < min(deadline, since + quiet_s):
        running.wait("the stack", lambda: True)  # raises if a worker takes too much memory
        time.sleep(0.5)
        if seen.footprint > most * 1.001:
            most, since = seen.footprint, time.monotonic()


def _note_footprint(stage: Stage, running: Running, alias: str, *, when: str = "") -> None:
    """Record the peak footprint, and check that memory_gb covers it (with 5 % tolerance)."""
    seen = running.watch.models[alias]
    declared = running.stack.settings.models[alias].memory_gb
    held = seen.footprint / GIB
    stage.note(f"{alias}: peak footprint{when}, of memory_gb", f"{held:.2f} of {declared:.2f} GiB")
    stage.check(
        f"{alias}: memory_gb covers the footprint{when}",
        held <= 1.05 * declared,
        f"{held:.2f} of {declared:.2f} GiB",
    )


def _note_time(stage: Stage, what: str, seconds: float, nbytes: int) -> None:
    stage.note(what, f"{seconds / (nbytes / stage.rate):.1f} x one SHA-256 over it")


def _check_progress(stage: Stage, downloads: list[tuple[float, int, int, float]], total: int) -> None:
    done = [step[1] for step in downloads]
    stage.check("download progress is reported and never decreases", done == sorted(done), len(done))
    totals = {step[2] for step in downloads}
    stage.check(
        "the download's size is reported", total in totals, f"{sorted(totals)}, {total} published"
    )
    stage.check("the remaining time is reported", any(step[3] > 0 for step in downloads))


def _download_bytes(files: Files) -> int:
    """The bytes of the files that a VLM's download fetches."""
    return sum(blob.size for name, blob in files.items() if name.endswith(_VLM))
