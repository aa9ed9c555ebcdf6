"""Finds out whether a port is taken: connects to it as a client would, then binds it.

Binding alone is not enough. With ``SO_REUSEADDR``, which servers set, macOS allows one listener on
``0.0.0.0`` and another on ``127.0.0.1``, and local clients reach the latter. Linux refuses that for
IPv4, but a program on ``[::1]`` still gets the clients of ``localhost`` if ours listens on IPv4 only.
Connecting alone is not enough either: it misses a program on another address, and one that accepts no
connections.

Rules: the only module that checks ports. Standard library only, because hostctl uses it before
``.venv`` exists. No packet leaves the machine.
"""

from __future__ import annotations

import errno
import socket

LOOPBACK = ("127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with settings
_CONNECT_S = 0.5  # a listener on this machine accepts at once


def is_everywhere(host: str) -> bool:
    return host in EVERYWHERE


def authority(host: str, port: int) -> str:
    """``host:port`` as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def answering(port: int, addresses: tuple[str, ...] = LOOPBACK) -> list[str]:
    """The *addresses* at which a program accepts connections to *port*."""
    return [address for address in addresses if _accepts(address, port)]


def taken_at(host: str, port: int) -> str:
    """The address at which another program has *port*, for a server on *host*; "": the port is free.

    A server on loopback or on all addresses needs both loopback addresses, because ``localhost`` may
    resolve to either.
    """
    local = is_everywhere(host) or host in (*LOOPBACK, "localhost")
    if found := answering(port, LOOPBACK if local else (host,)):
        return found[0]
    needed = EVERYWHERE if is_everywhere(host) else (host,)
    return next((address for address in needed if _is_bound(address, port)), "")


def taken(port: int, host: str = "127.0.0.1") -> bool:
    return bool(taken_at(host, port))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _accepts(address: str, port: int) -> bool:
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect((address, port))
            # A connection to a free port in the ephemeral range can connect to itself.
            return bool(probe.getsockname()[:2] != probe.getpeername()[:2])
    except OSError:  # refused, no IPv6, or a full backlog, which binding detects
        return False


def _is_bound(address: str, port: int) -> bool:
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as exc:
        # The server itself reports other errors (a privileged port, a foreign address) better.
        return exc.errno == errno.EADDRINUSE
    return False
