"""Ports for tests, and how they compute."""

from __future__ import annotations

import ctypes
import socket
import sys
from pathlib import Path

import pytest

from testkit.servers import free_port

linux = pytest.mark.skipif(sys.platform != "linux", reason="a matter of Linux")


def test_a_port_is_given_once_and_can_be_listened_on() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


@linux
def test_no_connection_that_goes_out_can_take_a_port_that_was_given() -> None:
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < least


def test_a_port_that_is_taken_is_passed_over() -> None:
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port + 1))
        server.listen()
        assert free_port() != port + 1


@linux
def test_models_of_tests_compute_with_the_fast_blas_whatever_was_imported_first() -> None:
    assert hasattr(ctypes.CDLL(None), "openblas_get_config")
