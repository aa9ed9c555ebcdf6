"""A listener on Docker's bridge on Linux, through which containers reach this host.

On Linux, ``host.docker.internal`` is the address of ``docker0``, which exists once the Docker engine
has run. A container's own address belongs to the network of ``docker0`` or of another Docker bridge
(``br-...``, one per compose project). On macOS, Docker Desktop forwards to loopback.

Rules: the listener serves only peers in those networks. Other machines of the LAN can also send packets
to the bridge's address; their connections are closed unread. A bridge that is missing or has moved is
checked every few seconds, and never keeps the manager from serving loopback.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from uvicorn import Config
from uvicorn.server import ServerState

from contracts.settings import ManagerSettings
from web.serve import PortTaken, bind

log = logging.getLogger(__name__)

CHECK_S = 5.0
_FIRST = "docker0"
_BRIDGE = re.compile(r"docker0|br-[0-9a-f]{12}")


@dataclass(frozen=True)
class Bridges:
    """``address`` of ``docker0``, None without an engine; ``networks`` of containers."""

    address: str | None = None
    networks: tuple[ipaddress.IPv4Network, ...] = ()

    def has(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def bridges_of(interfaces: Mapping[str, Iterable[tuple[str, str]]]) -> Bridges:
    """The bridges among *interfaces*, which map names to IPv4 addresses with netmasks."""
    ours = {name: list(pairs) for name, pairs in interfaces.items() if _BRIDGE.fullmatch(name)}
    networks = [
        ipaddress.IPv4Interface(f"{address}/{netmask}").network
        for pairs in ours.values()
        for address, netmask in pairs
    ]
    first = next(iter(ours.get(_FIRST, [])), None)
    return Bridges(first[0] if first else None, tuple(networks))


def read() -> Bridges:
    """The bridges of this host."""
    return bridges_of(
        {
            name: [(a.address, a.netmask) for a in found if a.family == socket.AF_INET and a.netmask]
            for name, found in psutil.net_if_addrs().items()
        }
    )


def must_listen(settings: ManagerSettings, platform: str = sys.platform) -> bool:
    """Whether to listen on the bridge: on Linux, if the manager otherwise serves only loopback."""
    if not settings.docker_bridge or not platform.startswith("linux"):
        return False
    return settings.host in ("127.0.0.1", "localhost")


class PeerFilter(asyncio.Protocol):
    """The first protocol of each connection: closes it unread unless its peer is *allowed*.

    An allowed connection continues with the protocol that *make* returns.
    """

    def __init__(self, allowed: Callable[[str], bool], make: Callable[[], asyncio.Protocol]) -> None:
        self._allowed = allowed
        self._make = make

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = (transport.get_extra_info("peername") or ("",))[0]
        if not self._allowed(peer):
            log.warning("connection from %s closed: not a container of this host", peer)
            transport.abort()
            return
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class BridgeListener:
    """Keeps a listener on the bridge's address while ``run`` runs."""

    def __init__(
        self, port: int, *, read_bridges: Callable[[], Bridges] = read, check_s: float = CHECK_S
    ) -> None:
        self._port = port
        self._read = read_bridges
        self._check_s = check_s
        self._address: str | None = None
        self._server: asyncio.Server | None = None
        self._logged = ""  # the last error

    async def run(self, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        """Serve with uvicorn's *config*, as part of the server that owns *state*."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            # As uvicorn makes it for its own sockets.
            kind: Any = config.http_protocol_class
            made: asyncio.Protocol = kind(
                config=config, server_state=state, app_state=app_state, _loop=loop
            )
            return made

        try:
            while True:
                await self._check(protocol)
                await asyncio.sleep(self._check_s)
        finally:
            self._close()

    def _allowed(self, peer: str) -> bool:
        # Read each time: a compose project may just have started with a new network.
        return self._read().has(peer)

    async def _check(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        address = self._read().address
        if address == self._address:
            return
        self._close()
        if address is None:
            return
        try:
            sock = bind(address, self._port)
        except PortTaken as exc:
            if self._logged != str(exc):  # once, not every few seconds
                log.warning("containers cannot reach this manager yet: cannot listen: %s", exc)
                self._logged = str(exc)
            return
        self._server = await asyncio.get_running_loop().create_server(
            lambda: PeerFilter(self._allowed, protocol), sock=sock
        )
        self._address, self._logged = address, ""
        log.info("listening on http://%s:%d, for containers", address, self._port)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._address = None
