"""The ports that the stack needs, and the programs that use them.

Standard library only, because .venv may not exist yet: the ports are read from the settings file line
by line, in the layout of the shipped files. Errors in it are reported when the settings are loaded.
``web.ports`` checks whether a port is in use.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from contracts import env_file
from web.ports import LOOPBACK, answering, authority

_SECTION = re.compile(r"(\w+):")
_KEY = re.compile(r"  ([\w.-]+):\s*(\d+)?")
_MODEL_PORT = re.compile(r"    port:\s*(\d+)")
_DEFAULTS = {"gateway": 8000, "manager": 8100}


def service_environ(root: Path) -> dict[str, str]:
    """The variables in ``.env``: the only environment that a service uses."""
    return env_file.read(root / env_file.NAME)


def config_path(root: Path, values: Mapping[str, str]) -> Path:
    return root / Path(values.get("VISION_CONFIG") or "config.yaml").expanduser()


def needed_ports(config: str, values: Mapping[str, str]) -> dict[str, int]:
    """Tier or alias -> port, from the text of the settings file and the *values* of ``.env``."""
    ports = dict(_DEFAULTS)
    section = alias = ""
    for line in config.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
        elif section in _DEFAULTS and (found := _KEY.match(line)) and found[1] == "port" and found[2]:
            ports[section] = int(found[2])
        elif section == "models" and (found := _KEY.match(line)):
            alias = found[1]
        elif section == "models" and alias and (found := _MODEL_PORT.match(line)):
            ports[alias] = int(found[1])
    for tier in _DEFAULTS:
        value = values.get(f"{tier.upper()}_PORT", "")
        if value.isdigit():
            ports[tier] = int(value)
    return ports


def holder(port: int) -> str:
    """The programs that listen on *port*, as text; "" if unknown. On macOS there can be several."""
    if lsof := shutil.which("lsof"):
        argv = [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        if text := processes_of(subprocess.run(argv, capture_output=True, text=True).stdout):
            return text
    if ss := shutil.which("ss"):
        argv = [ss, "-Hltnp", "sport", "=", f":{port}"]
        text = subprocess.run(argv, capture_output=True, text=True).stdout
        if found := re.search(r'\("([^"]+)",pid=(\d+)', text):
            return f"{found[1]} (pid {found[2]})"
    return _holder_in_proc(port, Path("/proc"))


def processes_of(lsof: str) -> str:
    """The processes in the output of ``lsof -Fpc``: for each a ``p`` line, then a ``c`` line."""
    names: dict[str, str] = {}
    pid = ""
    for line in lsof.splitlines():
        if line.startswith("p"):
            pid = line[1:]
            names[pid] = "a process"
        elif line.startswith("c") and pid:
            names[pid] = line[1:]
    return " and ".join(f"{name} (pid {pid})" for pid, name in names.items())


def _holder_in_proc(port: int, proc: Path) -> str:
    """Find the program by the socket's inode, as ss does."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for link in proc.glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in inodes:
                name = (link.parents[1] / "comm").read_text().strip()
                return f"{name} (pid {link.parents[1].name})"
        except OSError:
            continue
    return ""


# Without the system's proxy: the settings of macOS do not always exclude 127.0.0.1.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def speaks_ours(port: int, path: str, keys: set[str]) -> bool:
    """Whether every loopback address that responds returns a JSON object with *keys* at *path*.

    The HTTP status does not matter. This detects another program on ``[::1]`` while our server listens
    on ``127.0.0.1``.
    """
    answered = answering(port, LOOPBACK)
    return bool(answered) and all(
        _has_keys(f"http://{authority(address, port)}{path}", keys) for address in answered
    )


def _has_keys(url: str, keys: set[str]) -> bool:
    try:
        with _DIRECT.open(url, timeout=3) as answer:
            body = answer.read(10_000)
    except urllib.error.HTTPError as exc:
        with exc:
            body = exc.read(10_000)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and keys <= set(found)
