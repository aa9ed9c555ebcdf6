"""A worker in waiting: what it does before, at and after the line that tells what it is to be."""

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


class TestTheLine:
    def test_it_says_what_argv_would(self) -> None:
        line = json.dumps({**GOOD, "host": "127.0.0.2", "nonce": "n"}).encode()
        assert parse(line) == Assignment(alias="a", spec="{}", port=8001, host="127.0.0.2", nonce="n")

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("", "the line"),
            ("{", "the line"),
            ("[]", "the line"),
            ({}, "alias"),
            ({**GOOD, "alias": ""}, "alias"),
            ({**GOOD, "port": 0}, "port"),
            ({**GOOD, "port": "8001"}, "port"),
            ({**GOOD, "colour": "red"}, "colour"),
        ],
    )
    def test_one_that_is_none_is_told_by_its_faulty_field(self, line: Any, says: str) -> None:
        text = line if isinstance(line, str) else json.dumps(line)
        with pytest.raises(SettingsError, match=f"^standby: {says}: "):
            parse(text.encode())

    def test_it_is_read_whole_though_it_comes_in_pieces(self) -> None:
        assert read([b"{", b"}", b"\n"]) == b"{}"

    def test_there_is_none_when_the_input_ends_before_its_end(self) -> None:
        assert read([]) is None
        assert read([b"{}"]) is None
        assert read_line(-1) is None  # nor when there is no input at all

    def test_one_without_end_is_not_read_for_ever(self) -> None:
        line = read([b"x" * 65_536] * (LINE_LIMIT // 65_536 + 2))
        assert line is not None
        assert len(line) <= LINE_LIMIT + 65_536


def read(pieces: list[bytes]) -> bytes | None:
    reading, writing = os.pipe()

    def write() -> None:
        # Whoever stops reading early breaks the pipe.
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


@pytest.mark.parametrize("argv", [[], ["--standby", "vlm", "--alias", "x"], ["--standby", "sound"]])
def test_arguments_that_make_no_sense_are_refused(
    argv: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "--standby" in capfd.readouterr().err


# --- real processes ----------------------------------------------------------------------------------


class Standby(Process):
    def until_ready(self) -> None:
        self.logged("standby ready", within_s=30)

    def tell(self, **fields: Any) -> None:
        spec = vlm_settings(MODELS / "vlm-best").model_dump_json()
        told = {"alias": "vlm-best", "spec": spec, "port": self.port, "nonce": "N1", **fields}
        self.write(json.dumps(told).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def hang_up(self) -> None:
        assert self.popen.stdin
        self.popen.stdin.close()


@contextmanager
def parked(kinds: str, tmp_path: Path, **environment: str) -> Iterator[Standby]:
    standby = Standby(["--standby", kinds], free_port(), tmp_path / "log", **environment)
    with ended(standby):
        yield standby


@pytest.mark.mlx
@pytest.mark.process
def test_a_standby_becomes_the_worker_that_it_is_told_to_be(tmp_path: Path) -> None:
    with parked("vlm,image", tmp_path) as standby:
        standby.until_ready()
        assert psutil.Process(standby.popen.pid).net_connections("inet") == []
        standby.tell()
        seen = standby.watch_until_ready()
        assert {(health.nonce, health.pid) for _, health in seen} == {("N1", standby.popen.pid)}
        answer = standby.post("/v1/chat/completions", ask(RED_CIRCLE, CAPTION)).json()
        assert answer["choices"][0]["message"]["content"] == RED_CIRCLE_CAPTION
        assert not any("Traceback" in line or "Warning" in line for line in standby.log)
        # The same input that brought the line now tells that the parent is gone.
        standby.hang_up()
        assert standby.exit_within(5) == 0
        assert any("the parent process is gone" in line for line in standby.log)


@pytest.mark.mlx
@pytest.mark.process
def test_a_line_that_comes_during_the_imports_is_taken_after_them(tmp_path: Path) -> None:
    with parked("image", tmp_path) as standby:
        settings = image_settings(MODELS / "image-gen", size="64x64", steps=1)
        standby.tell(alias="image-gen", spec=settings.model_dump_json())
        standby.watch_until_ready()
        drawn = standby.post("/v1/images/generations", {"prompt": "a red circle", "seed": 1})
        assert len(drawn.json()["data"]) == 1
        standby.popen.send_signal(signal.SIGTERM)
        assert standby.exit_within(5) == 0


@pytest.mark.process
def test_a_standby_leaves_with_its_parent_even_while_it_imports(tmp_path: Path) -> None:
    with parked("vlm", tmp_path) as standby:
        importing(standby)
        standby.hang_up()
        assert standby.exit_within(2) == 0


@pytest.mark.process
def test_sigterm_ends_a_standby_at_once_even_while_it_imports(tmp_path: Path) -> None:
    with parked("vlm", tmp_path) as standby:
        importing(standby)
        standby.popen.send_signal(signal.SIGTERM)
        assert standby.exit_within(2) == -signal.SIGTERM


@pytest.mark.process
def test_sigterm_ends_a_standby_that_waits_at_once(tmp_path: Path) -> None:
    with parked("vlm", tmp_path) as standby:
        standby.until_ready()
        standby.popen.send_signal(signal.SIGTERM)
        assert standby.exit_within(2) == -signal.SIGTERM


def importing(standby: Standby) -> None:
    """Wait until *standby* imports."""
    process = psutil.Process(standby.popen.pid)
    while process.num_threads() < 2:  # the other one listens
        time.sleep(0.01)


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"be a worker\n", "standby: the line: "),
        (json.dumps({**GOOD, "spec": "{}"}).encode() + b"\n", "--spec: "),
    ],
)
def test_a_line_that_can_not_be_used_is_told_in_one(tmp_path: Path, line: bytes, says: str) -> None:
    with parked("vlm", tmp_path, **without("mlx_vlm", tmp_path)) as standby:
        standby.write(line)
        assert standby.exit_within(30) == 2
        assert says in standby.log[-1]


@pytest.mark.process
def test_a_kind_whose_library_is_not_there_is_left_out_and_the_standby_leaves_with_its_parent(
    tmp_path: Path,
) -> None:
    with parked("image,vlm", tmp_path, **without("mflux", tmp_path)) as standby:
        standby.until_ready()
        (warning,) = [line for line in standby.log if "WARNING" in line]
        assert warning.endswith("the libraries of kind image are left out: mflux is not here")
        # It waits as any other: the end of its parent ends it.
        standby.hang_up()
        assert standby.exit_within(2) == 0


def without(library: str, folder: Path) -> dict[str, str]:
    """The environment in which *library* is not installed: its imports, of seconds, are spared."""
    (folder / f"{library}.py").write_text(f"raise ImportError('{library} is not here')")
    return {"PYTHONPATH": str(folder)}
