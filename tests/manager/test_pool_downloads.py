"""Requests whose model is being downloaded wait while bytes arrive, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from contracts.control import Download
from contracts.errors import QueueFull, QueueTimeout
from tests.manager.virtual import Scene, story


@story({"a": 4}, queue_timeout_s=30)
async def test_a_request_does_not_time_out_while_its_model_downloads(scene: Scene) -> None:
    behaviour = scene.host.behaviours["a"]
    behaviour.download_s, behaviour.load_s = 1000.0, 1020.0
    await scene.ask().granted()
    assert scene.now() == pytest.approx(1020, abs=0.1)
    assert len(scene.host.processes) == 1


@story({"a": 4}, queue_timeout_s=30)
async def test_the_load_after_a_download_has_the_full_queue_timeout_again(scene: Scene) -> None:
    behaviour = scene.host.behaviours["a"]
    behaviour.download_s, behaviour.load_s = 100.0, 200.0
    error = await scene.ask().refused()
    assert isinstance(error, QueueTimeout)
    assert error.message == "a could not serve this within 30 s (it is starting)"
    assert scene.now() == pytest.approx(129, abs=1.1)  # the last byte arrived within the last second


@story({"a": 4}, queue_timeout_s=30)
async def test_a_stalled_download_ends_the_wait_with_its_progress(scene: Scene) -> None:
    behaviour = scene.host.behaviours["a"]
    behaviour.download_s, behaviour.load_s, behaviour.cut_s = 177.0, 200.0, 93.0
    error = await scene.ask().refused()
    assert isinstance(error, QueueTimeout)
    assert error.message == (
        "a is being downloaded, 93 of 177 bytes, about 84 s left; no bytes arrived within 30 s"
    )
    assert error.retry_after == 59  # never more than clients sleep
    assert scene.now() == pytest.approx(123, abs=0.1)


@story({"a": 4}, queue_timeout_s=30)
async def test_a_pull_that_a_load_waits_for_counts_as_its_download(scene: Scene) -> None:
    scene.pulls["a"] = Download(done_bytes=1, total_bytes=4)
    request = scene.ask()
    for _ in range(20):
        scene.pulled_at["a"] = scene.now()
        await asyncio.sleep(10)
        assert not request.task.done()
    assert scene.host.processes == []
    assert scene.pool.worker("a").download == scene.pulls["a"]
    assert scene.pool.worker("a").phase == "downloading"
    scene.pulls["a"] = Download(done_bytes=4, total_bytes=4)
    assert scene.pool.worker("a").phase == "verifying"
    del scene.pulls["a"]
    await request.granted()


@story({"a": 4}, queue_limit=1, queue_timeout_s=30)
async def test_a_full_queue_reports_how_long_the_download_takes(scene: Scene) -> None:
    scene.host.behaviours["a"].download_s = scene.host.behaviours["a"].load_s = 40.0
    waiting = scene.ask()
    await asyncio.sleep(10.5)
    error = await scene.ask().refused()
    assert isinstance(error, QueueFull)
    assert error.message.endswith("it is being downloaded, 10 of 40 bytes, about 30 s left")
    assert error.retry_after == 30
    await waiting.granted()


@story({"a": 4, "b": 4})
async def test_newer_files_are_downloaded_after_a_load_of_older_ones(scene: Scene) -> None:
    scene.host.behaviours["a"].newer = "f00"
    await scene.served("a")
    await scene.served("b")
    assert scene.outdated == ["a"]
    process = scene.pool.worker("a").process
    assert process is not None
    assert process.revision == "old"
