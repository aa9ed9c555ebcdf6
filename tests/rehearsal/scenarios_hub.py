"""Downloads: slow, offline, gated, moved, damaged, full disks, and caches that another tool filled.

They use a small Qwen2.5-VL under the id of config.16gb.yaml: real tokenizer, two shards, 0.4 GB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hostctl.local_stack import LocalStack
from tests.rehearsal import image_models, qwen25
from tests.rehearsal.hub import Files
from tests.rehearsal.running import Running, error_of, error_or_usage
from tests.rehearsal.scenario import scenario
from tests.rehearsal.stage import Stage

ALIAS = "vlm-best"
CONFIG = "config.16gb.yaml"
SHARD = 200_000_000
RESERVE = 1 << 30  # bytes that the product leaves free on the disk
_SWALLOWED_MOST_S = 60.0


def small(stage: Stage, *, step: float = 0.004) -> Files:
    shape = replace(qwen25.SMALL, vocabulary=151936, tied=True, step=step)
    return qwen25.repository(shape, stage.packages, shard=SHARD)


def weights(files: Files) -> int:
    return sum(blob.size for name, blob in files.items() if name.endswith(".safetensors"))


@scenario("slow", "a download that takes longer than manager.queue_timeout_s")
def slow(stage: Stage) -> None:
    limit_s = 60  # long enough for a load on a busy machine
    config = stage.config(CONFIG, {"manager.queue_timeout_s": limit_s})
    files = small(stage)
    stage.publish(config, ALIAS, files)
    stage.hub.bytes_per_second = SHARD / (1.5 * limit_s)
    with stage.stack(config) as running:
        request = running.start(lambda: running.chat(ALIAS))
        answer = request.answer()
        stage.check(
            "the request waits while bytes arrive",
            answer.status_code == 200 and request.seconds > limit_s,
            f"{error_or_usage(answer)} after {request.seconds / limit_s:.1f} x the limit",
        )


@scenario("offline", "a complete cache: connections are refused or hang, or the Hub is down")
def offline(stage: Stage) -> None:
    config = stage.config(CONFIG)
    stage.publish(config, ALIAS, small(stage))
    with stage.stack(config) as running:
        first = running.chat(ALIAS)
        stage.check("the first load succeeds", first.status_code == 200, error_or_usage(first))
        fetched = stage.hub.sent()
        stage.hub.close()
        refused = _again(stage, running, "connections are refused")
        stage.hub.swallows = True
        stage.hub.open()
        swallowed = _again(stage, running, "packets are lost")
        stage.hub.close()
        stage.hub.swallows = False
        stage.hub.open()
        stage.hub.down = 503
        _again(stage, running, "the Hub is down (503)")
        stage.check("nothing was downloaded again", stage.hub.sent() == fetched)
        more = swallowed - refused
        stage.check(
            "lost packets delay a load only by seconds", more < _SWALLOWED_MOST_S, f"{more:.0f} s more"
        )


def _again(stage: Stage, running: Running, when: str) -> float:
    """Unload and load again; returns the seconds of the load."""
    running.evict(ALIAS)
    begun = time.monotonic()
    answer = running.start(lambda: running.chat(ALIAS)).answer(400)
    stage.check(f"it loads while {when}", answer.status_code == 200, error_or_usage(answer))
    return time.monotonic() - begun


@scenario("gated", "gated repositories, with and without a token")
def gated(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config("config.yaml")
    stage.publish(config, "image-dev", image_models.dev_names())
    sixteen = stage.config(CONFIG)
    stage.publish(sixteen, ALIAS, small(stage))
    name = "mlx-community/Qwen2.5-VL-3B-Instruct-4bit"
    hub.gated, hub.token = frozenset({"black-forest-labs/FLUX.1-dev", name}), "hf_rehearsal"
    with stage.stack(config) as running:
        begun = time.monotonic()
        answer = running.post(
            "/v1/images/generations", {"model": "image-dev", "prompt": "a cat", "size": "64x64"}
        )
        words = error_of(answer)
        named = all(word in words for word in ("gated", "licence", "HF_TOKEN", "FLUX.1-dev"))
        stage.check(
            "without a token the error states the solution", answer.status_code >= 400 and named, words
        )
        stage.check("and it is immediate", time.monotonic() - begun < 60)
    with stage.stack(sixteen, HF_TOKEN="hf_wrong") as running:
        answer = running.chat(ALIAS)
        words = error_of(answer)
        stage.check(
            "a token without access gets the same error",
            answer.status_code >= 400 and "gated" in words,
            words,
        )
    with stage.stack(sixteen, HF_TOKEN=hub.token) as running:
        answer = running.chat(ALIAS)
        stage.check("with the right token it loads", answer.status_code == 200, error_or_usage(answer))
    leaked = [seen.path for seen in hub.seen if seen.path.startswith("/cdn/") and seen.authorized]
    stage.check("the token is sent to the Hub only", not leaked, leaked[:2])


@scenario("moved", "main moves to a new commit, whose weights arrive slowly or not at all")
def moved(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config(CONFIG)
    stage.publish(config, ALIAS, small(stage))
    with stage.stack(config) as running:
        first = running.chat(ALIAS)
        stage.check("the old commit loads", first.status_code == 200, error_or_usage(first))
        running.evict(ALIAS)
        new = small(stage, step=0.005)
        commit = stage.publish(config, ALIAS, new)
        hub.bytes_per_second = 1e6
        slow_s = SHARD / hub.bytes_per_second
        request = running.start(lambda: running.chat(ALIAS))
        answer = request.answer()
        stage.check(
            "the old copy serves while the new one is downloaded",
            answer.status_code == 200 and request.seconds < slow_s,
            f"{error_or_usage(answer)} after {request.seconds / slow_s:.2f} x the download",
        )
        hub.close()
    with stage.stack(config) as running:
        answer = running.chat(ALIAS)
        stage.check(
            "offline, a partial new copy does not harm the old one",
            answer.status_code == 200,
            error_or_usage(answer),
        )
        hub.bytes_per_second = None
        hub.open()
        _again(stage, running, "the Hub is back")
        snapshot = _snapshot(stage, commit)
        try:
            running.wait("the new commit", lambda: _whole(snapshot, new), 90)
            stage.check("the new commit is downloaded in the background", True)
        except TimeoutError as exc:
            stage.check("the new commit is downloaded in the background", False, exc)


def _snapshot(stage: Stage, commit: str) -> Path:
    name = "models--mlx-community--Qwen2.5-VL-3B-Instruct-4bit"
    return stage.home / "hub" / name / "snapshots" / commit


def _whole(snapshot: Path, files: Files) -> bool:
    return all(
        (snapshot / name).exists() and (snapshot / name).stat().st_size == blob.size
        for name, blob in files.items()
        if name.endswith(".safetensors")
    )


@scenario("damaged", "a shard arrives with one wrong byte")
def damaged(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config(CONFIG)
    files = small(stage)
    stage.publish(config, ALIAS, files)
    first, second = sorted(name for name in files if name.endswith(".safetensors"))[:2]
    hub.damaged = frozenset({second})
    with stage.stack(config) as running:
        answer = running.chat(ALIAS)
        words = error_of(answer)
        stage.check(
            "the error names the damaged file",
            answer.status_code >= 400 and "damaged" in words and second in words,
            words,
        )
        hub.damaged = frozenset()
        _until_answered(stage, running, "the next request downloads it again")
        stage.check("the intact shard is downloaded once", hub.sent(first) < 1.05 * files[first].size)


def _until_answered(stage: Stage, running: Running, what: str, limit_s: float = 240) -> None:
    """Repeat the request until the manager starts the worker again (its backoff grows)."""
    begun = time.monotonic()
    while (answer := running.chat(ALIAS)).status_code != 200 and time.monotonic() - begun < limit_s:
        time.sleep(2)
    stage.check(what, answer.status_code == 200, error_or_usage(answer))


class SmallDisk(LocalStack):
    """The manager sees a small file system at ``mount``, which disappears with the manager."""

    mount = Path()
    size = 0

    def program(self, tier: str) -> Sequence[str]:
        argv = super().program(tier)
        if tier != "manager":
            return argv
        script = f'mount -t tmpfs -o size={self.size} none "$0" && exec "$@"'
        return ["unshare", "-rm", "sh", "-c", script, str(self.mount), *argv]

    @property
    def inside(self) -> Path:
        """``mount`` as the manager sees it."""
        return Path(f"/proc/{self._processes['manager'].pid}/root{self.mount}")


@scenario("full-disk", "a disk that is too small, and one that fills up during the download", memory=6)
def full_disk(stage: Stage) -> None:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        stage.note("skipped", "needs Linux and unshare")
        return
    config = stage.config(CONFIG)
    files = small(stage)
    stage.publish(config, ALIAS, files)
    stage.home.mkdir()
    for size, what in (
        (RESERVE + weights(files) // 2, "short"),
        (RESERVE + 2 * weights(files), "filled"),
    ):
        kind = type("Disk", (SmallDisk,), {"mount": stage.home, "size": size})
        stage.hub.seen.clear()
        with stage.stack(config, kind=kind) as running:
            if what == "short":
                _too_small(stage, running)
            else:
                _fills_up(stage, running, files)


def _too_small(stage: Stage, running: Running) -> None:
    answer = running.chat(ALIAS)
    words = error_of(answer)
    explained = all(word in words for word in ("needs", "free"))
    stage.check(
        "a disk that is too small is reported before the download",
        answer.status_code >= 400 and explained,
        words,
    )
    stage.check("no weights were downloaded", stage.hub.sent(".safetensors") == 0)


def _fills_up(stage: Stage, running: Running, files: Files) -> None:
    stack = running.stack
    assert isinstance(stack, SmallDisk)
    hub = stage.hub
    hub.bytes_per_second = 1e6  # so that the disk is full before the download ends
    request = running.start(lambda: running.chat(ALIAS))
    seen = running.watch.models[ALIAS]
    begun = sum(blob.size for blob in files.values()) - weights(files)
    running.wait("a part of the weights", lambda: seen.downloads and seen.downloads[-1][1] > begun, 120)
    filler = stack.inside / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 24))
        except OSError as exc:
            stage.check("the disk is full", True, exc.strerror)
    words = error_of(request.answer())
    stage.check("a disk that fills up is reported", "No space left" in words, words)
    filler.unlink(missing_ok=True)
    hub.bytes_per_second = None
    _until_answered(stage, running, "once there is space again, the download continues")
    sent, size = hub.sent(".safetensors"), weights(files)
    stage.check("nothing is downloaded twice", sent < 1.1 * size, f"{sent / size:.2f} x the files")


@scenario("foreign-cache", "caches that `hf download` filled, and no network", disk=4)
def foreign_cache(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config(CONFIG)
    stage.publish_moondream(config, text_layers=1, vision_layers=1)
    commit = stage.publish(config, ALIAS, small(stage))
    _hf_download(stage, "vikhyatk/moondream2")
    _hf_download(stage, "moondream/starmie-v1")
    _hf_download(stage, "mlx-community/Qwen2.5-VL-3B-Instruct-4bit", "--revision", commit)
    hub.close()
    with stage.stack(config) as running:
        for alias, how in (("vlm-fast", "by name, with its code"), (ALIAS, "by commit")):
            answer = running.chat(alias, max_tokens=1)
            stage.check(
                f"a repository downloaded {how} loads",
                answer.status_code == 200,
                error_or_usage(answer),
            )
        stage.check("its code did not run", "code of a checkpoint ran" not in running.log())


def _hf_download(stage: Stage, *argv: str) -> None:
    tool = Path(sys.executable).with_name("hf")
    subprocess.run(
        [str(tool), "download", *argv],
        env=stage.environ(HF_HUB_DISABLE_XET="1"), check=True, capture_output=True, timeout=300,
    )  # fmt: skip
