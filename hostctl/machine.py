"""The facts about this machine that an install depends on, read once. Standard library only."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contracts import env_file
from hostctl import domains, ports
from hostctl.command import output as _output
from hostctl.services import TIERS, Installation, ServiceManager, Tier
from hostctl.systemd import Systemd
from web.ports import taken

GIB = 1 << 30
CONFIG, SMALL_CONFIG = "config.yaml", "./config.16gb.yaml"
SMALL_RAM = 23 * GIB  # a machine sold with 24 GB reports slightly less


def is_small(ram_bytes: int) -> bool:
    return ram_bytes < SMALL_RAM


def config_for(ram_bytes: int, named: str | None) -> str:
    """The settings file: *named* by ``VISION_CONFIG``, else chosen by memory."""
    return named or (SMALL_CONFIG if is_small(ram_bytes) else CONFIG)


def why_small(ram_bytes: int) -> str:
    """The note of install and `make up` when they choose the small settings."""
    return (
        f"{ram_bytes / GIB:.0f} GB of memory: using {SMALL_CONFIG} with smaller models "
        "(to change it, set VISION_CONFIG in .env; docs/models.md has the trade-offs)"
    )


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def foreground_environ(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the settings file that `make up` chooses for this machine's memory.

    For commands about a stack in the foreground. Services have their choice in ``.env``.
    """
    try:
        named = environ.get("VISION_CONFIG") or ports.service_environ(root).get("VISION_CONFIG")
    except env_file.EnvFileError:  # reported when the settings are loaded
        return dict(environ)
    if named or not is_small(memory_bytes()):
        return dict(environ)
    return {**environ, "VISION_CONFIG": str(root / SMALL_CONFIG)}


def protected_folder(root: Path, home: Path) -> str:
    """The protected folder of macOS that contains *root*, by its display name; "" if none does.

    macOS shows a dialog before a program may read these folders. A service gets no dialog, only
    "Operation not permitted". Both paths must be resolved. The comparison ignores case.
    """
    inside = [part.casefold() for part in root.parts]
    for name, path in _PROTECTED.items():
        folder = [part.casefold() for part in (home / path).parts]
        if inside[: len(folder)] == folder:
            return name
    return ""


_PROTECTED = MappingProxyType(
    {
        "Documents": "Documents",
        "Desktop": "Desktop",
        "Downloads": "Downloads",
        "iCloud Drive": "Library/Mobile Documents",
        "a cloud folder": "Library/CloudStorage",
    }
)


@dataclass(frozen=True)
class TakenPort:
    """A port in use. *ours*: by the tier or worker of our own services that should use it."""

    port: int
    needed_by: str  # a tier or a model's alias
    holder: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Machine:
    system: str  # Linux, Darwin
    arch: str
    ram_bytes: int
    disk_free: int
    macos: tuple[int, ...] = ()  # (): unknown, or not a Mac
    arm_mac: bool = True  # Apple Silicon, even if this Python runs under Rosetta
    protected: str = ""  # the folder above the root that macOS protects from services
    move_to: str = ""  # a path for the root outside of it
    docker: str = "running"  # running, stopped, absent
    compose: bool = True
    container: bool = False  # the gateway's container exists, running or not
    restarts: int = 0  # automatic restarts of the container
    private: frozenset[str] = frozenset()  # settings files that only their owner can read
    session: bool = True  # the service manager has a session for this user
    at_boot: bool = False  # the services are launch daemons
    installed: frozenset[Tier] = frozenset()  # as services
    running: frozenset[Tier] = frozenset()
    older: tuple[str, ...] = ()  # definition files of older versions of our services
    taken: tuple[TakenPort, ...] = ()
    has_venv: bool = False
    lan_address: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)  # of .env
    ports: Mapping[str, int] = field(default_factory=dict)  # tier or alias -> port
    shell_variables: frozenset[str] = frozenset()  # settings that are set in this shell only

    @property
    def config(self) -> str:
        """The settings file, as named in .env."""
        return self.variables.get("VISION_CONFIG") or CONFIG

    @property
    def is_small(self) -> bool:
        return is_small(self.ram_bytes)

    @property
    def config_to_install(self) -> str:
        return config_for(self.ram_bytes, self.variables.get("VISION_CONFIG"))


def service_manager(
    place: Installation, environ: Mapping[str, str], system: str, *, boot: bool | None = None
) -> ServiceManager:
    """*boot*: on a Mac, launch daemons (True) or agents (False) instead of the installed kind."""
    if system == "Darwin":
        return domains.find(place, environ, boot=boot)
    config_home = environ.get("XDG_CONFIG_HOME")
    return Systemd(place, Path(config_home) if config_home else None)


def place_of(root: Path, environ: Mapping[str, str]) -> Installation:
    home = Path(environ.get("HOME") or Path.home())
    return Installation(root, home, os.getuid(), getpass.getuser())


def tool_environ(environ: Mapping[str, str], settings: set[str]) -> dict[str, str]:
    """*environ* for commands: without *settings*, because services use only ``.env``."""
    kept = {k: v for k, v in environ.items() if k not in settings}
    runtime = f"/run/user/{os.getuid()}"
    if sys.platform == "linux" and "XDG_RUNTIME_DIR" not in kept and Path(runtime).is_dir():
        kept["XDG_RUNTIME_DIR"] = runtime  # systemctl needs it; su and cron do not set it
    return kept


def installed(services: ServiceManager) -> frozenset[Tier]:
    return frozenset(tier for tier in TIERS if services.file(tier).exists())


def read(
    place: Installation,
    services: ServiceManager,
    environ: Mapping[str, str],
    shell: Mapping[str, str] = MappingProxyType({}),
) -> Machine:
    """Read the facts; *environ* is for commands, *shell* has settings that override ``.env``."""
    system = platform.system()
    variables = env_file.under(shell, ports.service_environ(place.root))
    there = installed(services)
    running = frozenset(tier for tier in TIERS if _is_running(services, tier, environ))
    docker = _docker(environ)
    compose = docker != "absent" and _succeeds(["docker", "compose", "version"], environ)
    listing = ["docker", "compose", "ps", "-aq", "gateway"]
    container = _output(listing, environ, place.root)[1].strip() if docker == "running" else ""
    folder = services.older_folder
    older = services.older(sorted(f.name for f in folder.iterdir()) if folder.is_dir() else [])
    config = ports.config_path(place.root, variables)
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    up = running | ({"gateway"} if container else set())
    needed = ports.needed_ports(text, variables)
    return Machine(
        system=system,
        arch=platform.machine(),
        ram_bytes=memory_bytes(),
        disk_free=shutil.disk_usage(place.root).free,
        **(_of_a_mac(place, environ) if system == "Darwin" else {}),
        docker=docker,
        compose=compose,
        container=bool(container),
        restarts=_restarts(container, environ) if container else 0,
        private=frozenset(
            name
            for name in (variables.get("VISION_CONFIG") or CONFIG, SMALL_CONFIG)
            if _is_private(ports.config_path(place.root, {"VISION_CONFIG": name}))
        ),
        session=system == "Darwin" or _succeeds(["systemctl", "--user", "show-environment"], environ),
        at_boot=services.kind == "daemon",
        installed=there,
        running=running,
        older=tuple(older),
        taken=tuple(_taken(needed, up)),
        ports=needed,
        has_venv=place.python.exists(),
        lan_address=lan_address(),
        variables=variables,
    )


def _of_a_mac(place: Installation, environ: Mapping[str, str]) -> dict[str, Any]:
    """The facts that only a Mac has."""
    arm = _output(["sysctl", "-n", "hw.optional.arm64"], environ)[1].strip()
    home = place.home.resolve()
    names = (f"{place.root.name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    free = next((home / name for name in names if not (home / name).exists()), home)
    return {
        "macos": tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit()),
        "arm_mac": platform.machine() == "arm64" or arm == "1",
        "protected": protected_folder(place.root.resolve(), home),
        "move_to": str(free),
    }


def _restarts(container: str, environ: Mapping[str, str]) -> int:
    count = _output(["docker", "inspect", "--format", "{{.RestartCount}}", container], environ)[1]
    return int(count) if count.strip().isdigit() else 0


def _is_private(file: Path) -> bool:
    return file.is_file() and not file.stat().st_mode & stat.S_IROTH


def _taken(needed: Mapping[str, int], up: frozenset[str] | set[str]) -> list[TakenPort]:
    found = []
    for name, port in needed.items():
        if not taken(port):
            continue
        path, keys = {
            "gateway": ("/healthz", {"status"}),
            "manager": ("/health", {"status", "uptime_seconds"}),
        }.get(name, ("/health", {"alias", "nonce"}))
        tier = name if name in TIERS else "manager"
        ours = tier in up and ports.speaks_ours(port, path, keys)
        found.append(TakenPort(port, name, ports.holder(port), ours))
    return found


def _is_running(services: ServiceManager, tier: Tier, environ: Mapping[str, str]) -> bool:
    return services.is_running(*_output(services.state_command(tier), environ))


def _docker(environ: Mapping[str, str]) -> str:
    if shutil.which("docker", path=environ.get("PATH")) is None:
        return "absent"
    return "running" if _succeeds(["docker", "info"], environ) else "stopped"


def _succeeds(argv: list[str], environ: Mapping[str, str]) -> bool:
    return _output(argv, environ)[0] == 0


def lan_address() -> str:
    """This machine's address in the LAN; "" if there is none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: only selects a route
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return address
