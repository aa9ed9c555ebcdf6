"""Which ports the stack needs, and who has them. Standard library only: .venv may not be there yet.

The settings file is read for its ports alone, line by line in the layout of the shipped files;
errors in it are reported when the settings proper are loaded. Whether a port is taken:
``web.ports``.
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
    """The variables of ``.env``: all that a service knows of an environment."""
    return env_file.read(root / env_file.NAME)


def config_path(root: Path, values: Mapping[str, str]) -> Path:
    return root / Path(values.get("VISION_CONFIG") or "config.yaml").expanduser()


def wanted_ports(config: str, values: Mapping[str, str]) -> dict[str, int]:
    """By the name of a tier or of a model's alias; *values* are those of ``.env``."""
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
        told = values.get(f"{tier.upper()}_PORT", "")
        if told.isdigit():
            ports[tier] = int(told)
    return ports


def holder(port: int) -> str:
    """Who listens on *port*, in words; "" when that can't be told. On macOS it can be several."""
    if lsof := shutil.which("lsof"):
        argv = [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        if told := processes_of(subprocess.run(argv, capture_output=True, text=True).stdout):
            return told
    if ss := shutil.which("ss"):
        argv = [ss, "-Hltnp", "sport", "=", f":{port}"]
        text = subprocess.run(argv, capture_output=True, text=True).stdout
        if found := re.search(r'\("([^"]+)",pid=(\d+)', text):
            return f"{found[1]} (pid {found[2]})"
    return _holder_in_proc(port, Path("/proc"))


def processes_of(lsof: str) -> str:
    """The processes in the output of ``lsof -Fpc``: a ``p`` line, then the ``c`` line of each."""
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
    """As ss does it, where there is none: by the socket's inode."""
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


# The system's proxy is not for this machine, and macOS' settings do not always spare 127.0.0.1.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def speaks_ours(port: int, path: str, keys: set[str]) -> bool:
    """Whether every loopback address that answers gives a JSON object with *keys* at *path*.

    The status does not matter. A stranger on ``[::1]`` beside our own server on ``127.0.0.1`` is found.
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
        told = json.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict) and keys <= set(told)
