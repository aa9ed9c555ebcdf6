"""Machines and installations for the tests of pure decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hostctl.launchd import Launchd
from hostctl.machine import GIB, Machine
from hostctl.services import Installation
from hostctl.systemd import Systemd

MAC_PLACE = Installation(Path("/Users/ann/vision insight"), Path("/Users/ann"), 501, "ann")
LINUX_PLACE = Installation(Path("/home/ann/vision insight"), Path("/home/ann"), 1000, "ann")
MAC = Machine("Darwin", "arm64", 24 * GIB, 100 * GIB)
LINUX = Machine("Linux", "x86_64", 32 * GIB, 100 * GIB)
LAUNCHD = Launchd(MAC_PLACE)
SYSTEMD = Systemd(LINUX_PLACE)


def mac(**facts: Any) -> Machine:
    return replace(MAC, **facts)


def linux(**facts: Any) -> Machine:
    return replace(LINUX, **facts)
