"""A standby worker, before, during and after its assignment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.settings.file import SettingsError
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, ask
from testkit.servers import free_port
from tests.workers.conftest import MODELS, image_settings, vlm_settings
from tests.workers.test_process import CAPTION, Process, ended
from workers.__main__ import main
from workers.standby import LINE_LIMIT, Assignment, parse, read_line

GOOD = {"alias": "a", "spec": "{}", "port": 8001}


class TestAssignment:
    def test_it_has_the_arguments_of_a_worker(self) -> None:
        line = json.dumps({**GOOD, "host": "127.0.0.2", "nonce": "n"}).encode()
        assert parse(line) == Assignment(alias="a", spec="{}", port=8001, host="127.0.0.2", nonce="n")

    def test_an_invalid_line_is_refused_naming_the_field(self) -> None:
        for line, field in (
            *(("", "assignment"), ("{", "assignment"), ("[]", "assignment"), ({}, "alias")),
            ({**GOOD, "alias": ""}, "alias"),
            ({**GOOD, "port": 0}, "port"),
            ({**GOOD, "port": "8001"}, "port"),
            ({**GOOD, "colour": "red"}, "colour"),
        ):
            text = line if isinstance(line, str) else json.dumps(line)
            with pytest.raises(SettingsError, match=f"^standby: {field}: "):
                parse(text.encode())

    def test_a_line_in_pieces_is_read_whole(self) -> None:
        assert read([b"{", b"}", b"\n"]) == b"{}"

    def test_there_is_no_line_if_the_input_closes_early(self) -> None:
        assert read([]) is None
        assert read([b"{}"]) is None
        assert read_line(-1) is None  # no input at all

    def test_the_length_of_a_line_is_bounded(self) -> None:
        line = read([b"x" * 65_536] * (LINE_LIMIT // 65_536 + 2))
        assert line is not None
        assert len(line) <= LINE_LIMIT + 65_536


def read(pieces: list[bytes]) -> bytes | None:
    reading, writing = os.pipe()

    def write() -> None:
        # A reader that stops early breaks the pipe.
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                os.write(writing, piece)
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return read_line(reading)
    finally:
        os.close(reading)
        writer.join()


def test_contradictory_arguments_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--standby", "vlm", "--alias", "x"], ["--standby", "sound"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert "--standby" in capfd.readouterr().err


# --- real processes ----------------------------------------------------------------------------------


class Standby(Process):
    def until_ready(self) -> None:
        self.logged("standby ready", within_s=120)  # libraries import slowly on a busy machine

    def assign(self, **fields: Any) -> None:
        spec = vlm_settings(MODELS / "vlm-best").model_dump_json()
        assignment = {"alias": "vlm-best", "spec": spec, "port": self.port, "nonce": "N1", **fields}
        self.write(json.dumps(assignment).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def close_input(self) -> None:
        assert self.popen.stdin
        self.popen.stdin.close()


@contextmanager
def standing_by(kinds: str, tmp_path: Path, **environment: str) -> Iterator[Standby]:
    standby = Standby(["--standby", kinds], free_port(), tmp_path / "log", **environment)
    with ended(standby):
        yield standby


@pytest.mark.mlx
@pytest.mark.process
def test_a_standby_becomes_the_assigned_worker(tmp_path: Path) -> None:
    with standing_by("vlm,image", tmp_path) as standby:
        standby.until_ready()
        assert psutil.Process(standby.popen.pid).net_connections("inet") == []
        standby.assign()
        seen = standby.watch_until_ready()
        assert {(health.nonce, health.pid) for _, health in seen} == {("N1", standby.popen.pid)}
        answer = standby.post("/v1/chat/completions", ask(RED_CIRCLE, CAPTION)).json()
        assert answer["choices"][0]["message"]["content"] == RED_CIRCLE_CAPTION
        assert not any("Traceback" in line or "Warning" in line for line in standby.log)
        # The input that carried the assignment now shows that the parent is gone.
        standby.close_input()
        assert standby.exit_within(5) == 0
        assert any("the parent process is gone" in line for line in standby.log)


@pytest.mark.mlx
@pytest.mark.process
def test_an_assignment_during_the_imports_is_used_after_them(tmp_path: Path) -> None:
    with standing_by("image", tmp_path) as standby:
        settings = image_settings(MODELS / "image-gen", size="64x64", steps=1)
        standby.assign(alias="image-gen", spec=settings.model_dump_json())
        standby.watch_until_ready()
        response = standby.post("/v1/images/generations", {"prompt": "a red circle", "seed": 1})
        assert len(response.json()["data"]) == 1
        standby.popen.send_signal(signal.SIGTERM)
        assert standby.exit_within(5) == 0


@pytest.mark.process
def test_a_standby_exits_with_its_parent_even_while_it_imports(tmp_path: Path) -> None:
    with standing_by("vlm", tmp_path) as standby:
        importing(standby)
        standby.close_input()
        assert standby.exit_within(2) == 0


@pytest.mark.process
@pytest.mark.parametrize("ready", [False, True], ids=["importing", "waiting"])
def test_sigterm_ends_a_standby_at_once(tmp_path: Path, ready: bool) -> None:
    with standing_by("vlm", tmp_path) as standby:
        standby.until_ready() if ready else importing(standby)
        standby.popen.send_signal(signal.SIGTERM)
        assert standby.exit_within(2) == -signal.SIGTERM


def importing(standby: Standby) -> None:
    """Wait until *standby* imports."""
    process = psutil.Process(standby.popen.pid)
    while process.num_threads() < 2:  # the second one reads the input
        time.sleep(0.01)


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"be a worker\n", "standby: assignment: "),
        (json.dumps({**GOOD, "spec": "{}"}).encode() + b"\n", "--spec: "),
    ],
)
def test_an_invalid_assignment_ends_the_process_with_one_line(
    tmp_path: Path, line: bytes, message: str
) -> None:
    with standing_by("vlm", tmp_path, **without("mlx_vlm", tmp_path)) as standby:
        standby.write(line)
        assert standby.exit_within(30) == 2
        assert message in standby.log[-1]


@pytest.mark.process
def test_a_kind_without_its_library_is_left_out(
    tmp_path: Path,
) -> None:
    with standing_by("image,vlm", tmp_path, **without("mflux", tmp_path)) as standby:
        standby.until_ready()
        (warning,) = [line for line in standby.log if "WARNING" in line]
        assert warning.endswith("libraries of kind image not imported: mflux is not here")
        # It waits like any other standby.
        standby.close_input()
        assert standby.exit_within(2) == 0


def without(library: str, folder: Path) -> dict[str, str]:
    """An environment in which *library* is not installed, which also saves seconds of imports."""
    (folder / f"{library}.py").write_text(f"raise ImportError('{library} is not here')")
    return {"PYTHONPATH": str(folder)}
