"""Messages to systemd, over a real datagram socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from web.systemd_notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        yield channel


def test_systemd_receives_its_own_messages(systemd: socket.socket) -> None:
    notifier = Notifier(systemd.getsockname())
    notifier.ready("serving")
    asyncio.run(notifier.alive())
    notifier.stopping()
    reported = [systemd.recv(100) for _ in range(3)]
    assert reported == [b"READY=1\nSTATUS=serving", b"WATCHDOG=1", b"STOPPING=1"]


def test_child_processes_can_not_report_for_this_one(systemd: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    notifier = Notifier.taken_from(environ)
    assert environ == {}
    assert notifier.watchdog_s == 30
    notifier.stopping()
    assert systemd.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier.taken_from({})
    assert notifier.watchdog_s == 0
    notifier.ready("serving")


def test_an_abstract_address_is_supported() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("")  # the kernel chooses one
        channel.settimeout(5)
        Notifier("@" + channel.getsockname()[1:].decode()).stopping()
        assert channel.recv(100) == b"STOPPING=1"


def test_a_missing_systemd_causes_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).ready("serving")
