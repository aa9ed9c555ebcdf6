"""Free ports and the BLAS library of the tests."""

from __future__ import annotations

import ctypes
import socket
import sys
from pathlib import Path

import pytest

from testkit.servers import free_port

linux = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")


def test_each_free_port_is_unique_and_can_be_bound() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


@linux
def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < least


def test_a_port_in_use_is_skipped() -> None:
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port + 1))
        server.listen()
        assert free_port() != port + 1


@linux
def test_the_fast_blas_is_loaded() -> None:
    assert hasattr(ctypes.CDLL(None), "openblas_get_config")
