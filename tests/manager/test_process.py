"""Real worker processes of a few lines each, as the manager starts and ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from manager.launcher.process import (
    ROOT,
    LaunchFailed,
    LaunchSpec,
    LocalHandle,
    LocalLauncher,
    StopSignal,
    exit_text,
)
from manager.worker_run import ending
from tests.manager.conftest import alive, eventually

pytestmark = pytest.mark.process

SPEC = LaunchSpec(alias="a", model='{"kind": "vlm"}', port=1, nonce="n0nce")
UNTIL_EOF = "import os; os.read(0, 1)"


class Output:
    def __init__(self) -> None:
        self.text = ""

    def __call__(self, data: bytes) -> None:
        self.text += data.decode()


async def start(
    stack: AsyncExitStack,
    code: str,
    output: Callable[[bytes], None] = lambda data: None,
    **environ: str,
) -> LocalHandle:
    """A worker that runs *code*; it ends with *stack*."""
    launcher = LocalLauncher(
        (sys.executable, "-c", code), environ={**os.environ, **environ} if environ else None
    )
    handle = await launcher.launch(SPEC, output)

    async def end() -> None:
        handle.signal(StopSignal.KILL)
        await handle.wait()

    stack.push_async_callback(end)
    return handle


def act(play: Callable[[AsyncExitStack], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with AsyncExitStack() as stack:
            await asyncio.wait_for(play(stack), 20)

    asyncio.run(whole())


def close_the_pipe(handle: LocalHandle) -> None:
    """As when the manager exits."""
    assert handle._popen.stdin is not None
    handle._popen.stdin.close()


def test_a_worker_gets_its_arguments_and_runs_in_the_repository_root() -> None:
    seen = Output()

    async def play(stack: AsyncExitStack) -> None:
        code = "import os, sys, json; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
        handle = await start(stack, code, seen)
        assert await handle.wait() == 0

    act(play)
    assert json.loads(seen.text) == [
        str(ROOT),
        [
            *("--alias", "a", "--spec", '{"kind": "vlm"}', "--host", "127.0.0.1", "--port", "1"),
            *("--nonce", "n0nce", "--parent-pipe"),
        ],
    ]
    assert (ROOT / "manager").is_dir()


def test_workers_are_started_with_this_python_by_default() -> None:
    assert LocalLauncher().command(SPEC)[:3] == [sys.executable, "-m", "workers"]


def test_all_output_is_delivered_before_wait_returns() -> None:
    seen = Output()

    async def play(stack: AsyncExitStack) -> None:
        code = "import sys; print('x' * 300_000); sys.stderr.write('last words'); sys.exit(3)"
        handle = await start(stack, code, seen)
        assert await handle.wait() == 3
        assert handle.poll() == 3
        assert seen.text.endswith("xx\nlast words")
        assert len(seen.text) == 300_011

    act(play)


def test_a_worker_leaves_when_the_pipe_from_its_manager_closes() -> None:
    async def play(stack: AsyncExitStack) -> None:
        handle = await start(stack, UNTIL_EOF)
        assert handle.poll() is None
        close_the_pipe(handle)
        assert await handle.wait() == 0

    act(play)


def test_one_worker_does_not_hold_the_pipe_of_another() -> None:
    async def play(stack: AsyncExitStack) -> None:
        first = await start(stack, UNTIL_EOF)
        second = await start(stack, UNTIL_EOF)
        close_the_pipe(first)
        assert await first.wait() == 0
        assert second.poll() is None

    act(play)


def test_a_stop_signal_reaches_the_children_too_and_no_child_outlives_its_worker() -> None:
    seen = Output()

    async def play(stack: AsyncExitStack) -> None:
        code = (
            "import subprocess, sys\n"
            "child = [sys.executable, '-c', 'import signal, time\\nsignal.signal(signal.SIGTERM,"
            ' signal.SIG_IGN); print("deaf", flush=True); time.sleep(600)\']\n'
            "print(subprocess.Popen(child).pid, flush=True)\n"
            "import time; time.sleep(600)"
        )
        handle = await start(stack, code, seen)
        await asyncio.to_thread(eventually, lambda: "deaf" in seen.text)
        child = int(seen.text.split()[0])
        assert os.getpgid(child) == handle.pid == os.getsid(handle.pid)
        handle.signal(StopSignal.TERMINATE)
        assert await handle.wait() == -signal.SIGTERM
        await asyncio.to_thread(eventually, lambda: not alive(child))

    act(play)


def test_a_process_that_keeps_the_output_open_does_not_delay_the_end() -> None:
    async def play(stack: AsyncExitStack) -> None:
        code = (
            "import subprocess, sys\n"
            "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
            "print(child.pid, flush=True)"
        )
        seen = Output()
        handle = await start(stack, code, seen)
        assert await handle.wait() == 0
        os.kill(int(seen.text), signal.SIGKILL)

    act(play)


def test_a_signal_to_an_ended_process_has_no_effect() -> None:
    async def play(stack: AsyncExitStack) -> None:
        handle = await start(stack, "pass")
        await handle.wait()
        handle.signal(StopSignal.KILL)
        assert handle.poll() == 0

    act(play)


def test_a_missing_program_is_a_failed_launch() -> None:
    async def launch() -> None:
        await LocalLauncher(("/no/such/program",)).launch(SPEC, lambda data: None)

    with pytest.raises(LaunchFailed, match="cannot start /no/such/program: No such file"):
        asyncio.run(launch())


def test_keys_of_the_other_tiers_do_not_reach_model_code() -> None:
    seen = Output()

    async def play(stack: AsyncExitStack) -> None:
        code = (
            "import os; names = {'MANAGER_TOKEN', 'GATEWAY_API_KEY', 'GATEWAY_API_KEYS', 'HF_TOKEN'};"
            "print(sorted(names & {*os.environ}))"
        )
        keys = {
            "MANAGER_TOKEN": "1",
            "GATEWAY_API_KEY": "2",
            "GATEWAY_API_KEYS": "a=3",
            "HF_TOKEN": "4",
        }
        await (await start(stack, code, seen, **keys)).wait()

    act(play)
    assert seen.text == "['HF_TOKEN']\n"


@pytest.mark.parametrize(
    ("status", "lines", "text"),
    [
        (1, ["load failed: weights are missing"], "weights are missing (exit status 1)"),
        (-9, ["loading", "still loading"], "still loading (killed by SIGKILL)"),
        (0, [], "it ended without an error message (exit status 0)"),
        (-200, [], "it ended without an error message (killed by signal 200)"),
        (
            3,
            ["2026-11-23 11:40:01,123 INFO workers: listening"],
            "it ended without an error message (exit status 3)",
        ),
        (
            -6,
            [
                "2026-11-23 11:40:01,123 INFO workers: listening",
                "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL]"
                " Command buffer execution failed: Impacting Interactivity"
                " (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            ],
            "macOS stopped the GPU's work because it held up the display; let the display sleep"
            " (System Settings > Lock Screen) or use a smaller size: libc++abi: terminating due to"
            " uncaught exception of type std::runtime_error: [METAL] Command buffer execution failed:"
            " Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
            " (killed by SIGABRT)",
        ),
        (3, ["out of memory", "2026-11-23 11:40:01,123 INFO x: y"], "out of memory (exit status 3)"),
    ],
)
def test_the_reason_for_an_exit_is_the_last_line_with_a_fault(
    status: int, lines: list[str], text: str
) -> None:
    assert ending(status, lines) == text
    assert exit_text(status) in text
