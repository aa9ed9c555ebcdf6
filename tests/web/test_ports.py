"""Whether a port is taken, and how a server reacts to another program on it. Real sockets."""

from __future__ import annotations

import errno
import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from testkit.needs import lacking
from testkit.servers import free_port
from web import ports, serve
from web.serve import PortTaken, bind, bind_all, make_server, urls


@contextmanager
def other_program(address: str, port: int = 0, *, shared: bool = False) -> Iterator[int]:
    """Another program on *address*; *shared*: as on BSD, its port is free on other addresses."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind((address, port or free_port()))
        except OSError as exc:
            if exc.errno != errno.EADDRNOTAVAIL:
                raise
            lacking(f"the address {address}")
        sock.listen()
        yield sock.getsockname()[1]


class BsdSocket(socket.socket):
    """Binds as on macOS: a listener on a more or less specific address is no obstacle."""

    def bind(self, address: Any) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().bind(address)


class NoIpv6(socket.socket):
    """A kernel without IPv6."""

    refusal = errno.EAFNOSUPPORT

    def __init__(self, family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(self.refusal, "refused")
        super().__init__(family, *args, **kwargs)


def test_a_port_is_taken_when_a_program_accepts_on_either_loopback_address() -> None:
    for address in (*ports.LOOPBACK, *ports.EVERYWHERE):
        with other_program(address) as port:
            for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::"):
                assert ports.taken(port, host), (address, host)
        assert not ports.taken(port), address


def test_a_listener_with_a_full_backlog_still_has_its_port() -> None:
    with other_program("127.0.0.1") as port, ExitStack() as clients:
        for _ in range(400):  # a full backlog accepts no connections
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        assert ports.taken_at("127.0.0.1", port)


def test_a_program_on_one_address_counts_for_a_server_on_all_addresses() -> None:
    with other_program("127.0.0.9") as port:  # stands for an address of the LAN
        assert ports.taken_at("0.0.0.0", port) == "0.0.0.0"
        assert not ports.taken(port, "127.0.0.1")


def test_a_port_whose_connections_linger_is_free() -> None:
    with other_program("127.0.0.1") as port:
        client = socket.create_connection(("127.0.0.1", port))
    client.close()
    assert not ports.taken(port)


def test_a_server_never_shares_a_port_even_if_the_kernel_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", BsdSocket)
    for address in ("127.0.0.1", "::1"):
        with other_program(address, shared=True) as port:
            for host in ("0.0.0.0", "127.0.0.1"):
                if (host, address) != ("127.0.0.1", "127.0.0.1"):
                    serve._listening(host, port).close()  # the kernel allows it
                for start in (bind, bind_all):
                    with pytest.raises(PortTaken) as refused:
                        start(host, port)
                    message = str(refused.value)
                    assert ports.authority(address, port) in message
                    assert f"lsof -nP -iTCP:{port}" in message


@pytest.mark.process
def test_gateway_and_manager_exit_and_name_the_port_and_the_cure() -> None:
    for tier in ("gateway", "manager"):
        with other_program("::1") as port:
            environ = {f"{tier.upper()}_PORT": str(port), "VISION_CONFIG": "config.demo.yaml"}
            done = subprocess.run(
                [sys.executable, "-m", tier], env=environ, capture_output=True, text=True, timeout=60
            )
        assert done.returncode == 1, done.stderr
        assert f"[::1]:{port}" in done.stderr
        assert f"set {tier.upper()}_PORT or {tier}.port to a free port" in done.stderr


def test_a_server_on_all_addresses_answers_both_families_and_sees_plain_ipv4_peers() -> None:
    peers: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
            return
        peers.append(scope["client"][0])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for host in ports.EVERYWHERE:
        peers.clear()
        sockets = bind_all(host, free_port())
        port = sockets[0].getsockname()[1]
        assert urls(sockets) == f"http://0.0.0.0:{port}, http://[::]:{port}"
        with serving(app, sockets):
            for address in ("127.0.0.1", "::1", "localhost"):
                client = http.client.HTTPConnection(address, port, timeout=10)
                client.request("GET", "/")
                assert client.getresponse().status == 204
                client.close()
        assert peers[:2] == ["127.0.0.1", "::1"]
        assert not any("ffff" in peer for peer in peers)


@contextmanager
def serving(app: Any, sockets: list[socket.socket]) -> Iterator[None]:
    server = make_server(app, graceful_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


def test_a_machine_without_ipv6_listens_on_ipv4_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoIpv6)
    for refusal in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        monkeypatch.setattr(NoIpv6, "refusal", refusal)
        (only,) = bind_all("0.0.0.0", 0)
        with only:
            assert only.getsockname()[0] == "0.0.0.0"
            port = only.getsockname()[1]
            assert ports.taken(port)
        assert not ports.taken(port)


def test_other_errors_of_ipv6_are_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoIpv6)
    monkeypatch.setattr(NoIpv6, "refusal", errno.EMFILE)
    with pytest.raises(PortTaken):
        bind_all("0.0.0.0", 0)


def test_a_specific_host_is_the_only_address() -> None:
    (only,) = bind_all("127.0.0.1", 0)
    with only:
        assert only.getsockname()[0] == "127.0.0.1"
        assert not ports.answering(only.getsockname()[1], ("::1",))
