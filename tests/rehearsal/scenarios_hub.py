"""What happens to downloads: slow, offline, gated, moved, damaged, no disk, somebody else's cache.

With a small Qwen2.5-VL under the id of config.16gb.yaml: real tokenizer, two shards, 0.4 GB.
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
from tests.rehearsal import drawing, qwen25
from tests.rehearsal.hub import Files
from tests.rehearsal.scenarios_full import error_or_usage
from tests.rehearsal.stage import Running, Stage, error_of, publish, publish_moondream, scenario

ALIAS = "vlm-best"
CONFIG = "config.16gb.yaml"
SHARD = 200_000_000
RESERVE = 1 << 30  # that the product leaves free on the disk
_SWALLOWED_MOST_S = 60.0


def small(stage: Stage, *, step: float = 0.004) -> Files:
    shape = replace(qwen25.SMALL, vocabulary=151936, tied=True, step=step)
    return qwen25.repository(shape, stage.packages, shard=SHARD)


def weights(files: Files) -> int:
    return sum(blob.size for name, blob in files.items() if name.endswith(".safetensors"))


@scenario("slow", "a download that takes longer than manager.queue_timeout_s")
def slow(stage: Stage) -> None:
    limit_s = 60  # a load on a busy machine must fit into it
    config = stage.config(CONFIG, {"manager.queue_timeout_s": limit_s})
    files = small(stage)
    publish(stage.hub, config, ALIAS, files)
    stage.hub.bytes_per_second = SHARD / (1.5 * limit_s)
    with stage.stack(config) as running:
        asking = running.asking(lambda: running.chat(ALIAS))
        answer = asking.answer()
        stage.check(
            "the request waits as long as bytes come",
            answer.status_code == 200 and asking.seconds > limit_s,
            f"{error_or_usage(answer)} after {asking.seconds / limit_s:.1f} x the limit",
        )


@scenario("offline", "a complete cache: the network refuses, swallows, or the Hub is down")
def offline(stage: Stage) -> None:
    config = stage.config(CONFIG)
    publish(stage.hub, config, ALIAS, small(stage))
    with stage.stack(config) as running:
        first = running.chat(ALIAS)
        stage.check("it is fetched and answers", first.status_code == 200, error_or_usage(first))
        fetched = stage.hub.sent()
        stage.hub.close()
        refused = _again(stage, running, "connections are refused")
        stage.hub.swallows = True
        stage.hub.open()
        swallowed = _again(stage, running, "packets are swallowed")
        stage.hub.close()
        stage.hub.swallows = False
        stage.hub.open()
        stage.hub.down = 503
        _again(stage, running, "the Hub is down (503)")
        stage.check("nothing was fetched again", stage.hub.sent() == fetched)
        more = swallowed - refused
        stage.check(
            "swallowed packets cost seconds only", more < _SWALLOWED_MOST_S, f"{more:.0f} s more"
        )


def _again(stage: Stage, running: Running, when: str) -> float:
    """Load it anew; the seconds that this took."""
    running.evict(ALIAS)
    begun = time.monotonic()
    answer = running.asking(lambda: running.chat(ALIAS)).answer(400)
    stage.check(f"it answers while {when}", answer.status_code == 200, error_or_usage(answer))
    return time.monotonic() - begun


@scenario("gated", "gated repositories, with and without a token")
def gated(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config("config.yaml")
    publish(hub, config, "image-dev", drawing.dev_names())
    sixteen = stage.config(CONFIG)
    publish(hub, sixteen, ALIAS, small(stage))
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
            "without a token the error says what to do", answer.status_code >= 400 and named, words
        )
        stage.check("and comes at once", time.monotonic() - begun < 60)
    with stage.stack(sixteen, HF_TOKEN="hf_wrong") as running:
        answer = running.chat(ALIAS)
        words = error_of(answer)
        stage.check(
            "a token without access gets that error",
            answer.status_code >= 400 and "gated" in words,
            words,
        )
    with stage.stack(sixteen, HF_TOKEN=hub.token) as running:
        answer = running.chat(ALIAS)
        stage.check(
            "with the right token it is fetched", answer.status_code == 200, error_or_usage(answer)
        )
    leaked = [seen.path for seen in hub.seen if seen.path.startswith("/cdn/") and seen.authorized]
    stage.check("the token stays with the Hub", not leaked, leaked[:2])


@scenario("moved", "the repository moves on, and the new weights come slowly or not at all")
def moved(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config(CONFIG)
    publish(hub, config, ALIAS, small(stage))
    with stage.stack(config) as running:
        first = running.chat(ALIAS)
        stage.check("the old commit answers", first.status_code == 200, error_or_usage(first))
        running.evict(ALIAS)
        new = small(stage, step=0.005)
        commit = publish(hub, config, ALIAS, new)
        hub.bytes_per_second = 1e6
        slow_s = SHARD / hub.bytes_per_second
        asking = running.asking(lambda: running.chat(ALIAS))
        answer = asking.answer()
        stage.check(
            "the copy on the disk serves while the new one is fetched",
            answer.status_code == 200 and asking.seconds < slow_s,
            f"{error_or_usage(answer)} after {asking.seconds / slow_s:.2f} x the download",
        )
        hub.close()
    with stage.stack(config) as running:
        answer = running.chat(ALIAS)
        stage.check(
            "half of the new one does not spoil the old one, offline",
            answer.status_code == 200,
            error_or_usage(answer),
        )
        hub.bytes_per_second = None
        hub.open()
        _again(stage, running, "the Hub is back")
        snapshot = _snapshot(stage, commit)
        try:
            running.wait("the new commit", lambda: _whole(snapshot, new), 90)
            stage.check("the new commit comes beside it", True)
        except TimeoutError as exc:
            stage.check("the new commit comes beside it", False, exc)


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
    publish(hub, config, ALIAS, files)
    first, second = sorted(name for name in files if name.endswith(".safetensors"))[:2]
    hub.damaged = frozenset({second})
    with stage.stack(config) as running:
        answer = running.chat(ALIAS)
        words = error_of(answer)
        stage.check(
            "it is found, and named",
            answer.status_code >= 400 and "damaged" in words and second in words,
            words,
        )
        hub.damaged = frozenset()
        _until_answered(stage, running, "it is fetched again when asked again")
        stage.check(
            "the shard that was whole is fetched once", hub.sent(first) < 1.05 * files[first].size
        )


def _until_answered(stage: Stage, running: Running, what: str, limit_s: float = 240) -> None:
    """Ask until the manager tries again (it waits longer after each failure)."""
    begun = time.monotonic()
    while (answer := running.chat(ALIAS)).status_code != 200 and time.monotonic() - begun < limit_s:
        time.sleep(2)
    stage.check(what, answer.status_code == 200, error_or_usage(answer))


class SmallDisk(LocalStack):
    """The manager sees a small file system of its own at ``mount``; it ends with the manager."""

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
        """``mount`` as it is inside."""
        return Path(f"/proc/{self._processes['manager'].pid}/root{self.mount}")


@scenario("full-disk", "a disk that is too small, and one that fills up on the way", memory=6)
def full_disk(stage: Stage) -> None:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        stage.note("left out", "wants Linux and unshare")
        return
    config = stage.config(CONFIG)
    files = small(stage)
    publish(stage.hub, config, ALIAS, files)
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
    told = all(word in words for word in ("needs", "free"))
    stage.check(
        "too small a disk is told before the download", answer.status_code >= 400 and told, words
    )
    stage.check("no weights were fetched", stage.hub.sent(".safetensors") == 0)


def _fills_up(stage: Stage, running: Running, files: Files) -> None:
    stack = running.stack
    assert isinstance(stack, SmallDisk)
    hub = stage.hub
    hub.bytes_per_second = 1e6  # it must not end before the disk is full
    asking = running.asking(lambda: running.chat(ALIAS))
    seen = running.watch.models[ALIAS]
    begun = sum(blob.size for blob in files.values()) - weights(files)
    running.wait("a part", lambda: seen.downloads and seen.downloads[-1][1] > begun, 120)
    filler = stack.inside / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 24))
        except OSError as exc:
            stage.check("the disk is full", True, exc.strerror)
    words = error_of(asking.answer())
    stage.check("a disk that fills up is told", "No space left" in words, words)
    filler.unlink(missing_ok=True)
    hub.bytes_per_second = None
    _until_answered(stage, running, "with room again it is answered")
    sent, size = hub.sent(".safetensors"), weights(files)
    stage.check(
        "what was fetched is not fetched again", sent < 1.1 * size, f"{sent / size:.2f} x the files"
    )


@scenario("foreign-cache", "caches that `hf download` filled, and no network", disk=4)
def foreign_cache(stage: Stage) -> None:
    hub = stage.hub
    config = stage.config(CONFIG)
    publish_moondream(hub, config, text_layers=1, vision_layers=1)
    commit = publish(hub, config, ALIAS, small(stage))
    _hf_download(stage, "vikhyatk/moondream2")
    _hf_download(stage, "moondream/starmie-v1")
    _hf_download(stage, "mlx-community/Qwen2.5-VL-3B-Instruct-4bit", "--revision", commit)
    hub.close()
    with stage.stack(config) as running:
        for alias, how in (("vlm-fast", "by its name, with its code"), (ALIAS, "by its commit")):
            answer = running.chat(alias, max_tokens=1)
            stage.check(
                f"what was fetched {how} serves", answer.status_code == 200, error_or_usage(answer)
            )
        stage.check("code in the folder did not run", "code of a checkpoint ran" not in running.log())


def _hf_download(stage: Stage, *argv: str) -> None:
    tool = Path(sys.executable).with_name("hf")
    subprocess.run(
        [str(tool), "download", *argv],
        env=stage.environ(HF_HUB_DISABLE_XET="1"), check=True, capture_output=True, timeout=300,
    )  # fmt: skip
