"""Problems that prevent an install are reported with their fixes, before anything is changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.settings.file import load
from hostctl import machine as machines
from hostctl import ports
from hostctl.launchd import Launchd
from hostctl.local_stack import ROOT
from hostctl.machine import GIB, Machine, TakenPort, protected_folder
from hostctl.preflight import notes, problems
from hostctl.services import Installation
from hostctl.systemd import Systemd
from testkit.servers import free_port, served
from tests.hostctl.machines import LINUX_PLACE, MAC_PLACE, linux, mac
from tests.hostctl.tree import Tree
from web.ports import taken

BROKEN: dict[str, tuple[Machine, str, str]] = {
    "no docker": (mac(docker="absent"), "docker is not installed", "NATIVE=1"),
    "docker down on a Mac": (mac(docker="stopped"), "is not running", "open Docker Desktop"),
    "docker down on Linux": (
        linux(docker="stopped"),
        "is not running",
        "systemctl enable --now docker",
    ),
    "no compose": (linux(compose=False), "docker compose is not installed", "docker-compose-plugin"),
    "Intel": (mac(arch="x86_64", arm_mac=False), "an Intel processor", "an M1 or newer"),
    "Rosetta": (mac(arch="x86_64"), "this Python is built for x86_64", "python.org"),
    "an old macOS": (mac(macos=(13, 7, 8)), "required; this is 13.7.8", "Software Update"),
    "a folder that services can't read": (
        mac(protected="Documents", move_to="/Users/ann/vision insight-2"),
        "/Users/ann/vision insight is in Documents, which services can't read on macOS",
        "mv '/Users/ann/vision insight' '/Users/ann/vision insight-2' && "
        "cd '/Users/ann/vision insight-2' && make install",
    ),
    "8 GB are sold as such": (mac(ram_bytes=6 * GIB), "6.0 GB of memory", "VISION_CONFIG"),
    "full disk": (linux(disk_free=1 * GIB), "1.0 GB are free", "free space"),
    "no session": (linux(session=False), "no session", "log in as the user"),
    "a port": (
        linux(taken=(TakenPort(8100, "manager", "node (pid 7)"),)),
        "port 8100 of manager is in use by node (pid 7)",
        "MANAGER_PORT in .env",
    ),
    "a worker's port": (
        linux(taken=(TakenPort(8002, "vlm-best"),)),
        "port 8002 of vlm-best is in use by another program",
        "models.vlm-best.port",
    ),
    "settings that the container can't read": (
        linux(private=frozenset({"config.yaml"})),
        "config.yaml is readable by its owner only",
        "chmod 644 config.yaml",
    ),
    "the small settings, which the install will choose": (
        linux(ram_bytes=16 * GIB, private=frozenset({"config.yaml", "./config.16gb.yaml"})),
        "./config.16gb.yaml is readable by its owner only",
        "chmod 644 ./config.16gb.yaml",
    ),
    "another system": (mac(system="FreeBSD"), "neither launchd nor systemd", "macOS or Linux"),
}


def place(machine: Machine) -> Installation:
    return MAC_PLACE if machine.system == "Darwin" else LINUX_PLACE


SUITABLE = [mac(), linux()]


def test_a_suitable_machine_has_no_problem() -> None:
    for machine in SUITABLE:
        assert problems(machine, place(machine), native=False) == []


def test_each_problem_is_reported_with_its_fix() -> None:
    for name, (machine, what, cure) in BROKEN.items():
        (problem,) = problems(machine, place(machine), native=False)
        assert what in problem.what, name
        assert cure in problem.cure, name


def test_all_problems_are_reported_together() -> None:
    machine = linux(docker="stopped", disk_free=0, session=False)
    assert len(problems(machine, LINUX_PLACE, native=False)) == 3


DOCKER_STATES = ["absent", "stopped"]


def test_a_native_gateway_needs_no_docker() -> None:
    for docker in DOCKER_STATES:
        assert problems(linux(docker=docker, compose=False), LINUX_PLACE, native=True) == []


def test_a_native_gateway_can_use_private_settings() -> None:
    assert problems(linux(private=frozenset({"config.yaml"})), LINUX_PLACE, native=True) == []


@pytest.mark.process
def test_private_settings_files_are_detected(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VISION_CONFIG='my own.yaml'\n")
    (tmp_path / "my own.yaml").touch()
    here = Installation(tmp_path, tmp_path, 1000, "ann")
    for mode, private in ((0o644, set()), (0o600, {"my own.yaml"})):
        (tmp_path / "my own.yaml").chmod(mode)
        found = machines.read(here, Systemd(here, tmp_path), {"PATH": "/nowhere"})
        assert found.private == private


def test_a_port_in_use_by_our_own_service_is_no_problem() -> None:
    machine = linux(taken=(TakenPort(8100, "manager", "python (pid 7)", ours=True),))
    assert problems(machine, LINUX_PLACE, native=False) == []


def test_the_port_of_an_older_service_counts_as_free() -> None:
    taken = (TakenPort(8100, "manager", "python (pid 7)"), TakenPort(8000, "gateway", "node (pid 8)"))
    machine = mac(taken=taken, older=("com.vision-insight-api.worker-manager.plist",))
    (problem,) = problems(machine, MAC_PLACE, native=False)
    assert "port 8000" in problem.what


def test_macos_14_to_27_are_supported() -> None:
    for macos in ((14, 0), (15, 7, 1), (26, 1), (27,), ()):
        assert problems(mac(macos=macos), MAC_PLACE, native=False) == []


def test_folders_that_macos_protects_from_services_are_recognized() -> None:
    home = Path("/Users/ann")
    for folder, name in {
        "Documents/vision": "Documents",
        "documents/a/b/vision": "Documents",  # the file system ignores case
        "Desktop/vision": "Desktop",
        "Downloads/vision-main": "Downloads",
        "Library/Mobile Documents/com~apple~CloudDocs/vision": "iCloud Drive",
        "Library/CloudStorage/Dropbox/vision": "a cloud folder",
        "vision": "",
        "code/Documents/vision": "",
        "Documents2/vision": "",
    }.items():
        assert protected_folder(home / folder, home) == name, folder
    assert protected_folder(Path("/Users/bob/Documents/vision"), home) == ""
    assert protected_folder(Path("/Volumes/disk/Documents"), home) == ""


@pytest.mark.process
def test_a_link_into_a_protected_folder_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.mac_ver", lambda: ("26.1", ("", "", ""), "arm64"))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    home = tmp_path / "Users" / "ann"
    real = home / "Documents" / "vision"
    real.mkdir(parents=True)
    (home / "vision").symlink_to(real)
    (tmp_path / "ann").symlink_to(home)
    for root, at_home in ((home / "vision", home), (real, tmp_path / "ann")):
        here = Installation(root, at_home, 501, "ann")
        found = machines.read(here, Launchd(here), {"PATH": "/nowhere"})
        assert (found.protected, found.macos, found.arm_mac) == ("Documents", (26, 1), True)
        # Not a name that exists: mv would move the folder into it.
        assert found.move_to == str(home.resolve() / "vision-2")


def test_an_external_disk_is_a_note_and_no_problem() -> None:
    outside = Installation(Path("/Volumes/disk/vision"), Path("/Users/ann"), 501, "ann")
    assert problems(mac(), outside, native=False) == []
    (note,) = notes(mac(), outside)
    assert "external disk" in note
    assert notes(mac(), MAC_PLACE) == notes(linux(), outside) == []


def test_installed_packages_need_no_disk_space() -> None:
    assert problems(linux(disk_free=0, has_venv=True), LINUX_PLACE, native=False) == []


UNSUPPORTED_NAMES = ["a$b", 'a"b', "a'b", "a:b", "a\\b"]


def test_a_folder_with_unsupported_characters_is_refused() -> None:
    for name in UNSUPPORTED_NAMES:
        place = Installation(Path("/home/ann") / name, Path("/home/ann"), 1000, "ann")
        (problem,) = problems(linux(), place, native=False)
        assert "move the folder" in problem.cure


def test_the_ports_are_read_from_the_settings() -> None:
    changed = {"MANAGER_PORT": "9100", "GATEWAY_PORT": "9000"}
    for name in ("config.yaml", "config.16gb.yaml", "config.demo.yaml"):
        for values in ({}, changed):
            settings = load(ROOT / name, values)
            assert ports.needed_ports((ROOT / name).read_text(), values) == {
                "gateway": settings.gateway.port,
                "manager": settings.manager.port,
                **{alias: model.port for alias, model in settings.models.items()},
            }


@pytest.mark.process
def test_the_program_that_uses_a_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert taken(port)
        assert ports.holder(port).endswith(f"(pid {os.getpid()})")
        if sys.platform == "linux":  # as without lsof and ss
            assert ports._holder_in_proc(port, Path("/proc")).endswith(f"(pid {os.getpid()})")
    assert not taken(port)


@contextmanager
def closing_connections(address: str, port: int) -> Iterator[None]:
    """A program that closes every connection."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server((address, port), family=socket.AF_INET6) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_all_programs_that_use_a_port_are_named() -> None:
    found = ports.processes_of("p7\ncnode\np9\nf12\ncpython3.12\n")
    assert found == "node (pid 7) and python3.12 (pid 9)"
    assert ports.processes_of("") == ""


def test_another_program_on_our_port_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"status": "fine"}'})

    with served(other) as url:
        port = int(url.rpartition(":")[2])
        # Our own ports are called without the proxies of the environment and of macOS.
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert ports.speaks_ours(port, "/health", {"status"})
        assert not ports.speaks_ours(port, "/health", {"status", "uptime_seconds"})
        # `localhost` can mean either address, so another program on the other one matters.
        with closing_connections("::1", port):
            assert not ports.speaks_ours(port, "/health", {"status"})
    assert not ports.speaks_ours(free_port(), "/health", {"status"})


@pytest.mark.process
def test_a_refused_install_reports_the_problems_and_changes_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "a tree")
    data = yaml.safe_load((tree.root / "config.yaml").read_text())
    before = sorted(tree.root.rglob("*"))
    with socket.create_server(("127.0.0.1", data["manager"]["port"])) as taken:
        done = subprocess.run(
            [sys.executable, "scripts/setup.py", "run", "-m", "hostctl", "install"],
            cwd=tree.root,
            env={"PATH": "/nowhere", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        port = taken.getsockname()[1]
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert "docker is not installed" in done.stderr
    assert f"port {port} of manager is in use by" in done.stderr
    left = [p for p in sorted(tree.root.rglob("*")) if "__pycache__" not in p.parts]
    assert left == before


@pytest.mark.process
def test_a_stack_in_the_foreground_reads_env_as_the_services_do(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "a tree")
    (tree.root / ".env").write_text("VISION_CONFIG=./mine.yaml\n")
    (tree.root / "mine.yaml").write_text("nonsense: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "hostctl.up"],
        cwd=tree.root,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "mine.yaml:1: nonsense: unknown key" in done.stderr


def test_commands_do_not_get_the_settings_of_the_shell() -> None:
    environ = machines.tool_environ({"PATH": "/bin", "GATEWAY_PORT": "1"}, {"GATEWAY_PORT"})
    assert environ["PATH"] == "/bin"
    assert "GATEWAY_PORT" not in environ


# Makes a Python process look like one on a Mac.
MAC = """
import os, platform
os.uname = lambda: os.uname_result(("Darwin", "mini", "25", "xnu", "arm64"))
os.getuid = lambda: 501
platform.system = lambda: "Darwin"
platform.machine = lambda: "arm64"
platform.mac_ver = lambda: (os.environ["MACOS"], ("", "", ""), "arm64")
"""


@pytest.mark.process
def test_an_install_in_documents_is_refused_with_the_command_that_moves_the_folder(
    tmp_path: Path,
) -> None:
    home = tmp_path / "ann"
    tree = Tree(home / "Documents" / "vision insight")
    tree.root.joinpath("sitecustomize.py").write_text(MAC)
    before = sorted(p for p in tree.root.rglob("*") if "__pycache__" not in p.parts)

    def install(root: Path, macos: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hostctl", "install"],
            cwd=root,
            env={"PATH": "/nowhere", "HOME": str(home), "PYTHONPATH": str(root), "MACOS": macos,
                 "USER": "ann", "NATIVE": "1", "DRY_RUN": "1"},
            capture_output=True,
            text=True,
        )  # fmt: skip

    done = install(tree.root, "13.7.8")
    assert done.returncode == 1
    assert f"{tree.root} is in Documents, which services can't read on macOS" in done.stderr
    new = home / "vision insight"
    assert f"mv '{tree.root}' '{new}' && cd '{new}' && make install" in done.stderr
    assert "macOS 14 or newer is required; this is 13.7.8" in done.stderr
    assert sorted(p for p in tree.root.rglob("*") if "__pycache__" not in p.parts) == before
    # There, on a newer macOS, the install works.
    tree.root.rename(new)
    done = install(new, "26.1")
    assert done.returncode == 0, done.stderr
    assert "launchctl bootstrap gui/501" in done.stdout
