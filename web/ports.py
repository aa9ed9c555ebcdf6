"""Whether a port is taken, asked as a client would ask: by connecting to it.

Binding alone is not enough. macOS lets a listener on ``0.0.0.0`` start beside one on ``127.0.0.1``
(with ``SO_REUSEADDR``, which servers set), and local clients then reach the other program. Linux
refuses that for IPv4, but a program on ``[::1]`` still gets the clients of ``localhost`` when ours
listens on IPv4 only. Binding finds what connecting can't: a program on one address of the network,
or one that accepts nobody.

Rules: this is the one place that asks about ports. Standard library only, because hostctl asks
before ``.venv`` exists. No packet leaves the machine.
"""

from __future__ import annotations

import errno
import socket

LOOPBACK = ("127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with settings
_CONNECT_S = 0.5  # a listener of this machine accepts at once


def is_everywhere(host: str) -> bool:
    return host in EVERYWHERE


def authority(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def answering(port: int, addresses: tuple[str, ...] = LOOPBACK) -> list[str]:
    """Those of *addresses* at which a program accepts connections to *port*."""
    return [address for address in addresses if _accepts(address, port)]


def taken_at(host: str, port: int) -> str:
    """Where another program has the *port* that a server wants on *host*; "" when nobody has it.

    A server on loopback or on all addresses wants both loopback addresses: ``localhost`` names either.
    """
    local = is_everywhere(host) or host in (*LOOPBACK, "localhost")
    if found := answering(port, LOOPBACK if local else (host,)):
        return found[0]
    wanted = EVERYWHERE if is_everywhere(host) else (host,)
    return next((address for address in wanted if _is_bound(address, port)), "")


def taken(port: int, host: str = "127.0.0.1") -> bool:
    return bool(taken_at(host, port))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _accepts(address: str, port: int) -> bool:
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect((address, port))
            # A connection to a free port of the ephemeral range can meet itself.
            return bool(probe.getsockname()[:2] != probe.getpeername()[:2])
    except OSError:  # refused, no IPv6 here, or a full backlog, which binding finds
        return False


def _is_bound(address: str, port: int) -> bool:
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as exc:
        # Others (a privileged port, a foreign address) are told better by the server itself.
        return exc.errno == errno.EADDRINUSE
    return False
