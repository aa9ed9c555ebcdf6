"""What keeps the stack from being installed is told with its cure, before anything is changed."""

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
    "no docker": (mac(docker="absent"), "no docker command", "NATIVE=1"),
    "docker down on a Mac": (mac(docker="stopped"), "does not answer", "open Docker Desktop"),
    "docker down on Linux": (
        linux(docker="stopped"),
        "does not answer",
        "systemctl enable --now docker",
    ),
    "no compose": (linux(compose=False), "no compose plugin", "docker-compose-plugin"),
    "Intel": (mac(arch="x86_64", arm_mac=False), "an Intel processor", "an M1 or newer"),
    "Rosetta": (mac(arch="x86_64"), "this Python is built for x86_64", "python.org"),
    "an old macOS": (mac(macos=(13, 7, 8)), "needed, this is 13.7.8", "Software Update"),
    "a folder that services can't read": (
        mac(protected="Documents", move_to="/Users/ann/vision insight-2"),
        "/Users/ann/vision insight is in Documents, which macOS lets no service read",
        "mv '/Users/ann/vision insight' '/Users/ann/vision insight-2' && "
        "cd '/Users/ann/vision insight-2' && make install",
    ),
    "8 GB are sold as such": (mac(ram_bytes=6 * GIB), "6.0 GB of memory", "VISION_CONFIG"),
    "full disk": (linux(disk_free=1 * GIB), "1.0 GB are free", "make room"),
    "no session": (linux(session=False), "no session", "log in as the user"),
    "a port": (
        linux(taken=(TakenPort(8100, "manager", "node (pid 7)"),)),
        "port 8100, which manager needs, is taken by node (pid 7)",
        "MANAGER_PORT in .env",
    ),
    "a worker's port": (
        linux(taken=(TakenPort(8002, "vlm-best"),)),
        "port 8002, which vlm-best needs",
        "models.vlm-best.port",
    ),
    "settings that the container can't read": (
        linux(private=frozenset({"config.yaml"})),
        "config.yaml can be read by its owner alone",
        "chmod 644 config.yaml",
    ),
    "the small settings, which it is going to have": (
        linux(ram_bytes=16 * GIB, private=frozenset({"config.yaml", "./config.16gb.yaml"})),
        "./config.16gb.yaml can be read by its owner alone",
        "chmod 644 ./config.16gb.yaml",
    ),
    "another system": (mac(system="FreeBSD"), "neither launchd nor systemd", "macOS or Linux"),
}


def place(machine: Machine) -> Installation:
    return MAC_PLACE if machine.system == "Darwin" else LINUX_PLACE


@pytest.mark.parametrize("machine", [mac(), linux()], ids=["mac", "linux"])
def test_a_machine_that_will_do_has_no_problem(machine: Machine) -> None:
    assert problems(machine, place(machine), native=False) == []


@pytest.mark.parametrize("name", BROKEN)
def test_each_problem_is_told_with_its_cure(name: str) -> None:
    machine, what, cure = BROKEN[name]
    (problem,) = problems(machine, place(machine), native=False)
    assert what in problem.what
    assert cure in problem.cure


def test_all_problems_are_told_at_once() -> None:
    machine = linux(docker="stopped", disk_free=0, session=False)
    assert len(problems(machine, LINUX_PLACE, native=False)) == 3


@pytest.mark.parametrize("docker", ["absent", "stopped"])
def test_a_native_gateway_needs_no_docker(docker: str) -> None:
    assert problems(linux(docker=docker, compose=False), LINUX_PLACE, native=True) == []


def test_a_native_gateway_reads_settings_that_only_their_owner_may_read() -> None:
    assert problems(linux(private=frozenset({"config.yaml"})), LINUX_PLACE, native=True) == []


@pytest.mark.parametrize(("mode", "private"), [(0o644, set()), (0o600, {"my own.yaml"})])
@pytest.mark.process
def test_settings_that_others_may_not_read_are_seen(
    mode: int, private: set[str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("VISION_CONFIG='my own.yaml'\n")
    (tmp_path / "my own.yaml").touch()
    (tmp_path / "my own.yaml").chmod(mode)
    here = Installation(tmp_path, tmp_path, 1000, "ann")
    found = machines.read(here, Systemd(here, tmp_path), {"PATH": "/nowhere"})
    assert found.private == private


def test_a_port_that_is_ours_is_no_problem() -> None:
    machine = linux(taken=(TakenPort(8100, "manager", "python (pid 7)", ours=True),))
    assert problems(machine, LINUX_PLACE, native=False) == []


def test_the_port_of_an_older_service_will_be_free_once_that_is_put_aside() -> None:
    taken = (TakenPort(8100, "manager", "python (pid 7)"), TakenPort(8000, "gateway", "node (pid 8)"))
    machine = mac(taken=taken, older=("com.vision-insight-api.worker-manager.plist",))
    (problem,) = problems(machine, MAC_PLACE, native=False)
    assert "port 8000" in problem.what


def test_macos_14_to_27_will_do() -> None:
    for macos in ((14, 0), (15, 7, 1), (26, 1), (27,), ()):
        assert problems(mac(macos=macos), MAC_PLACE, native=False) == []


def test_folders_that_macos_keeps_services_out_of_are_known() -> None:
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
        # A name that is taken is not where the folder would go: mv would put it inside.
        assert found.move_to == str(home.resolve() / "vision-2")


def test_an_external_disk_is_no_reason_to_refuse_and_is_told() -> None:
    outside = Installation(Path("/Volumes/disk/vision"), Path("/Users/ann"), 501, "ann")
    assert problems(mac(), outside, native=False) == []
    (note,) = notes(mac(), outside)
    assert "external disk" in note
    assert notes(mac(), MAC_PLACE) == notes(linux(), outside) == []


def test_packages_that_are_there_need_no_room() -> None:
    assert problems(linux(disk_free=0, has_venv=True), LINUX_PLACE, native=False) == []


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a'b", "a:b", "a\\b"])
def test_a_folder_that_no_service_file_can_name_is_refused(name: str) -> None:
    place = Installation(Path("/home/ann") / name, Path("/home/ann"), 1000, "ann")
    (problem,) = problems(linux(), place, native=False)
    assert "move the folder" in problem.cure


@pytest.mark.parametrize("name", ["config.yaml", "config.16gb.yaml", "config.demo.yaml"])
@pytest.mark.parametrize("values", [{}, {"MANAGER_PORT": "9100", "GATEWAY_PORT": "9000"}])
def test_the_ports_are_those_that_the_settings_have(name: str, values: dict[str, str]) -> None:
    settings = load(ROOT / name, values)
    found = ports.wanted_ports((ROOT / name).read_text(), values)
    assert found == {
        "gateway": settings.gateway.port,
        "manager": settings.manager.port,
        **{alias: model.port for alias, model in settings.models.items()},
    }


@pytest.mark.process
def test_who_holds_a_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert taken(port)
        assert ports.holder(port).endswith(f"(pid {os.getpid()})")
        if sys.platform == "linux":  # where there is neither lsof nor ss
            assert ports._holder_in_proc(port, Path("/proc")).endswith(f"(pid {os.getpid()})")
    assert not taken(port)


@contextmanager
def hanging_up(address: str, port: int) -> Iterator[None]:
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


def test_all_who_hold_a_port_are_named() -> None:
    told = ports.processes_of("p7\ncnode\np9\nf12\ncpython3.12\n")
    assert told == "node (pid 7) and python3.12 (pid 9)"
    assert ports.processes_of("") == ""


def test_a_stranger_on_our_port_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stranger(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"status": "fine"}'})

    with served(stranger) as url:
        port = int(url.rpartition(":")[2])
        # Neither a proxy of the environment nor one of macOS' settings stands before our own ports.
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert ports.speaks_ours(port, "/health", {"status"})
        assert not ports.speaks_ours(port, "/health", {"status", "uptime_seconds"})
        # `localhost` names either address: a stranger on the other one is not ours.
        with hanging_up("::1", port):
            assert not ports.speaks_ours(port, "/health", {"status"})
    assert not ports.speaks_ours(free_port(), "/health", {"status"})


@pytest.mark.process
def test_an_install_that_can_not_be_done_says_why_and_changes_nothing(tmp_path: Path) -> None:
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
    assert "there is no docker command" in done.stderr
    assert f"port {port}, which manager needs, is taken by" in done.stderr
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
    assert "mine.yaml:1: nonsense: is not a key that there is" in done.stderr


def test_the_shell_that_has_no_xdg_runtime_dir_is_given_one() -> None:
    from hostctl.machine import tool_environ

    assert tool_environ({"PATH": "/bin", "GATEWAY_PORT": "1"}, {"GATEWAY_PORT"}).get("PATH") == "/bin"
    assert "GATEWAY_PORT" not in tool_environ({"GATEWAY_PORT": "1"}, {"GATEWAY_PORT"})


# What hostctl asks to know that it runs on a Mac, and as whom.
MAC = """
import os, platform
os.uname = lambda: os.uname_result(("Darwin", "mini", "25", "xnu", "arm64"))
os.getuid = lambda: 501
platform.system = lambda: "Darwin"
platform.machine = lambda: "arm64"
platform.mac_ver = lambda: (os.environ["MACOS"], ("", "", ""), "arm64")
"""


@pytest.mark.process
def test_an_install_below_documents_is_refused_with_the_line_that_moves_the_folder(
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
    assert f"{tree.root} is in Documents, which macOS lets no service read" in done.stderr
    new = home / "vision insight"
    assert f"mv '{tree.root}' '{new}' && cd '{new}' && make install" in done.stderr
    assert "macOS 14 or newer is needed, this is 13.7.8" in done.stderr
    assert sorted(p for p in tree.root.rglob("*") if "__pycache__" not in p.parts) == before
    # There, on a newer macOS, it is an install like any other.
    tree.root.rename(new)
    done = install(new, "26.1")
    assert done.returncode == 0, done.stderr
    assert "launchctl bootstrap gui/501" in done.stdout
