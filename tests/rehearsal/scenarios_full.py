"""The models of config.yaml and config.16gb.yaml at their published sizes.

What a CPU can't do at these sizes is not tried: a picture by quantized float16 products takes MLX's
CPU back end hours. Such a load is followed
until all weights are in memory ("warming up"), which is when its
footprint shows; only Moondream2, which is not quantized, answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.rehearsal import drawing, qwen25
from tests.rehearsal.hub import Files
from tests.rehearsal.stage import (
    GIB,
    Running,
    Stage,
    error_of,
    publish,
    publish_moondream,
    scenario,
)

_VLM = (".json", ".jsonl", ".safetensors", ".model", ".tiktoken", ".txt", ".jinja")
_WARM = "warming up"
_PATIENCE_S = 1800  # a CPU warms up at these sizes for longer than the shipped 300 s


@scenario("moondream2", "config.yaml, vlm-fast at full size, from an empty cache", disk=5, memory=7)
def moondream2(stage: Stage) -> None:
    idle_s = 8
    config = stage.config("config.yaml", {"manager.idle_timeout_s": idle_s})
    hub, alias = stage.hub, "vlm-fast"
    files = publish_moondream(hub, config)
    total = _wanted(files)
    # Slow enough to be watched, to be cut, and to be stopped half way.
    hub.bytes_per_second, hub.cut_after = 150e6, 1 << 30
    with stage.stack(config) as running:
        running.asking(lambda: running.chat(alias))
        seen = running.watch.models[alias]
        running.wait(
            "half of the download", lambda: seen.downloads and seen.downloads[-1][1] > total / 2
        )
        _check_progress(stage, seen.downloads, total)
    cuts = [s.start for s in hub.downloads("model.safetensors")]
    stage.check("a connection that breaks is taken up at the byte", any(cuts), cuts)
    with stage.stack(config) as running:
        answer = running.asking(lambda: running.chat(alias)).answer()
        stage.check("the first request is answered", answer.status_code == 200, error_or_usage(answer))
        sent = hub.sent("model.safetensors")
        size = files["model.safetensors"].size
        stage.check(
            "a restart fetches nothing twice", sent < size * 1.02, f"{sent / size:.3f} x the file"
        )
        _note_footprint(stage, running, alias)
        model = running.model(alias)
        stage.check(
            "a text does not lower what it is charged",
            model.memory_gb >= model.declared_gb,
            f"{model.memory_gb:.2f} of {model.declared_gb:.2f} GiB declared",
        )
        running.unloaded(alias, idle_s + 60)
        charged = running.status().memory.models_loaded_gb
        stage.check("it leaves memory when it is idle", charged == 0, f"{charged} GiB charged")
        stage.note("learned peak", f"{running.model(alias).learned_gb:.2f} GiB")
        hub.close()
        before = len(hub.seen)
        begun = time.monotonic()
        answer = running.chat(alias)
        stage.check(
            "it loads again without the network", answer.status_code == 200, error_or_usage(answer)
        )
        stage.check("nothing was fetched for that", len(hub.seen) == before)
        _note_time(stage, "second load and answer", time.monotonic() - begun, total)


@scenario("qwen-7b", "config.yaml, vlm-best at full size: download and load", disk=7, memory=10)
def qwen_7b(stage: Stage) -> None:
    _loads(
        stage, "config.yaml", "vlm-best", lambda: qwen25.repository(qwen25.SEVEN_B, stage.packages), 9
    )


@scenario("schnell", "config.yaml, image-gen at full size: download and load", disk=11, memory=14)
def schnell(stage: Stage) -> None:
    _loads(stage, "config.yaml", "image-gen", lambda: drawing.schnell(stage.packages), 12.5)


def _loads(stage: Stage, shipped: str, alias: str, make: Callable[[], Files], most_gb: float) -> None:
    config = stage.config(shipped)
    files = make()
    publish(stage.hub, config, alias, files)
    with stage.stack(config, most_gb=most_gb) as running:
        _ask_for(running, alias)
        _until_warming_up(stage, running, alias, files)
        _settle(running, alias, 10)
        _note_footprint(stage, running, alias)


@scenario(
    "16gb", "config.16gb.yaml, vlm-best and image-gen at full size, side by side", disk=26, memory=13
)
def sixteen(stage: Stage) -> None:
    # What a Mac with 16 GB has: 75 % of it.
    config = stage.config(
        "config.16gb.yaml",
        {"memory.max_unified_memory_gb": 12, "manager.start_timeout_s": _PATIENCE_S},
    )
    made: dict[str, Files] = {
        "image-gen": drawing.klein(stage.packages),
        "vlm-best": qwen25.repository(qwen25.THREE_B, stage.packages),
    }
    for alias, files in made.items():
        publish(stage.hub, config, alias, files)
    with stage.stack(config, most_gb=9.5) as running:
        for alias, files in made.items():
            _ask_for(running, alias)
            _until_warming_up(stage, running, alias, files)
        # The first prompt reads the text encoder and quantizes it, as each new prompt does.
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
            "neither was put out for the other", set(states.values()) <= {"starting", "ready"}, states
        )
    _loads_again(stage, config)


def _loads_again(stage: Stage, config: Path) -> None:
    """From the 4-bit copy that the first load saved."""
    before, alias = stage.hub.sent(), "image-gen"
    with stage.stack(config, most_gb=9.5) as running:
        _ask_for(running, alias)
        seen = running.watch.models[alias]
        running.wait(f"{alias} is loaded again", lambda: _WARM in seen.phases or "ready" in seen.phases)
        _settle(running, alias, 30)
        _note_footprint(stage, running, alias, when=" at its second load")
        stage.check("the second load fetches nothing", stage.hub.sent() == before)
    copies = list((stage.home / "hub").glob("models--*/vision-insight/*"))
    stage.check("the first load left a copy at 4 bits", bool(copies), len(copies))


def _ask_for(running: Running, alias: str) -> None:
    """Begin what loads *alias*, as a client's first request does."""
    if running.stack.settings.models[alias].kind == "vlm":
        running.asking(lambda: running.chat(alias))
    else:
        body = {"model": alias, "prompt": "a red circle", "size": "64x64", "steps": 1}
        running.asking(lambda: running.post("/v1/images/generations", body))


def _until_warming_up(stage: Stage, running: Running, alias: str, files: Files) -> None:
    seen = running.watch.models[alias]

    def there() -> bool:
        if seen.errors:
            raise RuntimeError(seen.errors[-1])
        return _WARM in seen.phases or "ready" in seen.phases

    running.wait(f"{alias} is loaded", there)
    weights = sum(blob.size for name, blob in files.items() if name.endswith(".safetensors"))
    stage.note(f"{alias}: published weights", f"{weights / 1e9:.2f} GB")
    times = seen.phases
    stage.check(
        f"{alias}: its download was reported", bool(seen.downloads), f"{len(seen.downloads)} times"
    )
    begun, loaded = times.get("loading"), times.get(_WARM, times.get("ready"))
    if begun is not None and loaded is not None:
        _note_time(stage, f"{alias}: load, without the download", loaded - begun, weights)
    stage.check(f"{alias}: all its weights are in memory", True, _WARM)


def _settle(running: Running, alias: str, quiet_s: float, limit_s: float = 120) -> None:
    """Until the footprint of *alias* has not grown for *quiet_s*."""
    seen = running.watch.models[alias]
    most, since = seen.footprint, time.monotonic()
    deadline = since + limit_s
    while time.monotonic() < min(deadline, since + quiet_s):
        running.wait("a look", lambda: True)
        time.sleep(0.5)
        if seen.footprint > most * 1.001:
            most, since = seen.footprint, time.monotonic()


def _note_footprint(stage: Stage, running: Running, alias: str, *, when: str = "") -> None:
    seen = running.watch.models[alias]
    declared = running.stack.settings.models[alias].memory_gb
    held = seen.footprint / GIB
    stage.note(f"{alias}: most memory{when}, beside memory_gb", f"{held:.2f} of {declared:.2f} GiB")
    stage.check(
        f"{alias}: memory_gb covers it{when}",
        held <= 1.05 * declared,
        f"{held:.2f} of {declared:.2f} GiB",
    )


def _note_time(stage: Stage, what: str, seconds: float, nbytes: int) -> None:
    stage.note(what, f"{seconds / (nbytes / stage.rate):.1f} x one SHA-256 over it")


def _check_progress(stage: Stage, downloads: list[tuple[float, int, int, float]], total: int) -> None:
    done = [step[1] for step in downloads]
    stage.check(
        "the download's progress is reported, and never goes back", done == sorted(done), len(done)
    )
    totals = {step[2] for step in downloads}
    stage.check("its size is reported", total in totals, f"{sorted(totals)}, {total} published")
    stage.check("the remaining time is reported", any(step[3] > 0 for step in downloads))


def _wanted(files: Files) -> int:
    """The bytes of the files that a VLM's download takes."""
    return sum(blob.size for name, blob in files.items() if name.endswith(_VLM))


def error_or_usage(answer: object) -> str:
    import httpx

    assert isinstance(answer, httpx.Response)
    if answer.status_code == 200:
        return str(answer.json().get("usage", {}).get("prompt_tokens", "")) + " prompt tokens"
    return f"{answer.status_code} {error_of(answer)}"
