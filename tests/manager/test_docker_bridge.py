"""Docker's bridge: containers reach the manager there, and no other client does."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from contracts.settings import ManagerSettings
from manager.app import ManagerApp
from manager.docker_bridge import BridgeListener, Bridges, bridges_of, must_listen
from manager.launcher.process import ROOT, LocalLauncher
from manager.server import ManagerServer
from testkit import plain
from testkit.needs import lacking
from tests.manager.conftest import FAKE_WORKER, Bench, eventually
from web.serve import bind

AWAY = "127.0.0.9"  # stands in for docker0: loopback, but not where the manager always listens
EVERYBODY = (ipaddress.IPv4Network("127.0.0.0/8"),)


def test_the_bridges_are_docker_s_own_interfaces() -> None:
    found = bridges_of(
        {
            "lo": [("127.0.0.1", "255.0.0.0")],
            "eth0": [("192.168.1.7", "255.255.255.0")],
            "docker0": [("172.17.0.1", "255.255.0.0")],
            "br-0123456789ab": [("172.18.0.1", "255.255.0.0")],
            "br-lan": [("192.168.2.1", "255.255.255.0")],
        }
    )
    assert found.address == "172.17.0.1"
    assert [str(network) for network in found.networks] == ["172.17.0.0/16", "172.18.0.0/16"]
    for container in ("172.17.0.2", "172.18.0.5"):  # of any compose project
        assert found.has(container)
    for outsider in ("192.168.1.7", "172.19.0.2", "8.8.8.8", "::1", "", "nonsense"):
        assert not found.has(outsider)


def test_without_a_docker_engine_there_is_no_bridge() -> None:
    found = bridges_of({"lo": [("127.0.0.1", "255.0.0.0")]})
    assert found == Bridges()
    assert not found.has("127.0.0.1")


@pytest.mark.parametrize(
    ("settings", "platform", "listens"),
    [
        ({}, "linux", True),
        ({}, "darwin", False),  # Docker Desktop forwards to loopback
        ({"docker_bridge": False}, "linux", False),
        ({"host": "0.0.0.0"}, "linux", False),  # it listens there already, as configured
        ({"host": "localhost"}, "linux", True),
    ],
)
def test_it_listens_on_the_bridge_on_linux_if_the_manager_serves_only_loopback(
    settings: dict[str, object], platform: str, listens: bool
) -> None:
    assert must_listen(ManagerSettings.model_validate(settings), platform) is listens


class Unsignalled(ManagerServer):
    """In a thread, where no signal arrives."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def serving(bench: Bench, found: list[Bridges]) -> Iterator[int]:
    """A manager whose host has the last of *found*; yields its port."""
    settings = bench.settings()
    app = ManagerApp(settings, launcher=LocalLauncher(FAKE_WORKER))
    port = settings.manager.port
    bridge = BridgeListener(port, read_bridges=lambda: found[-1], check_s=0.05)
    server = Unsignalled(app, bridge=bridge)
    sock = bind("127.0.0.1", port)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    try:
        eventually(lambda: answers("127.0.0.1", port))
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
    assert not answers(AWAY, port)


def answers(host: str, port: int) -> bool:
    try:
        return plain.get(f"http://{host}:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


needs_addresses = pytest.mark.skipif(sys.platform != "linux", reason="only 127.0.0.1 on macOS")


@needs_addresses
def test_a_bridge_that_appears_is_served_and_one_that_disappears_is_closed(bench: Bench) -> None:
    found = [Bridges()]
    with serving(bench, found) as port:
        assert not answers(AWAY, port)
        found.append(Bridges(AWAY, EVERYBODY))
        eventually(lambda: answers(AWAY, port))
        found.append(Bridges("127.0.0.10", EVERYBODY))
        eventually(lambda: answers("127.0.0.10", port))
        assert not answers(AWAY, port)
        found.append(Bridges())
        eventually(lambda: not answers("127.0.0.10", port))
        assert answers("127.0.0.1", port)


@needs_addresses
def test_a_connection_from_outside_the_containers_is_closed_unread(bench: Bench) -> None:
    found = [Bridges(AWAY, (ipaddress.IPv4Network("172.17.0.0/16"),))]
    with serving(bench, found) as port:

        def is_closed() -> bool:
            try:
                with socket.create_connection((AWAY, port), timeout=5) as outsider:
                    outsider.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    return outsider.recv(100) == b""
            except ConnectionResetError:
                return True
            except ConnectionRefusedError:
                return False  # not listening yet

        eventually(is_closed)
        assert answers("127.0.0.1", port)


@needs_addresses
def test_a_taken_port_on_the_bridge_does_not_stop_loopback(bench: Bench) -> None:
    found = [Bridges()]
    with serving(bench, found) as port:
        with bind(AWAY, port):
            found.append(Bridges(AWAY, EVERYBODY))
            assert answers("127.0.0.1", port)
        eventually(lambda: answers(AWAY, port))


_IN_A_NAMESPACE = """
ip link set lo up
ip link add docker0 type bridge && ip addr add 172.31.7.1/24 dev docker0 && ip link set docker0 up
exec "$0" -m manager --config "$1"
"""

_HEALTH = """
exec 3<> "/dev/tcp/172.31.7.1/$0" && printf 'GET /health HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n' >&3
read -r -t 2 status <&3 && [[ $status == "HTTP/1.1 200 "* ]]
"""


def can_make_namespaces() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip"))
    if not tools or os.geteuid() != 0:
        return False
    probe = ["unshare", "-n", "ip", "link", "add", "docker0", "type", "bridge"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.process
def test_the_manager_itself_finds_a_real_bridge(bench: Bench, tmp_path: Path) -> None:
    if not can_make_namespaces():
        lacking("network namespaces, which need root, unshare and iproute2")
    config = bench.config()
    config["manager"]["standby"] = 0
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["bash", "-c", _IN_A_NAMESPACE, sys.executable, str(tmp_path / "config.yaml")]
    manager = subprocess.Popen(["unshare", "-n", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    ask = ["bash", "-c", _HEALTH, str(config["manager"]["port"])]
    inside = ["nsenter", "-n", "-t", str(manager.pid), *ask]
    try:
        eventually(lambda: subprocess.run(inside, capture_output=True).returncode == 0)
    finally:
        manager.send_signal(signal.SIGTERM)
        assert manager.wait(20) == 0
