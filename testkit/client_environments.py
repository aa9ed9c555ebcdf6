"""The environments of the client libraries, installed from their locks, for tests/clients and bench.

Each Python client gets its own virtual environment in ``.venv/clients``, because their versions
conflict; the Node clients share ``tests/clients/node_modules``. Quick if nothing has changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from hostctl.local_stack import ROOT

FOLDER = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv" / "clients"
NODE_MODULES = FOLDER / "node_modules"
OLDEST_NODE = 20
_UV = ROOT / ".venv" / "tools" / "bin" / "uv"


class CannotInstall(Exception):
    """The message states the problem and its solution."""


def python_of(environment: str) -> str:
    return str(ENVIRONMENTS / environment / "bin" / "python") if environment else sys.executable


def lock_of(environment: str) -> Path:
    return FOLDER / f"requirements-{environment}.lock"


def install(environment: str) -> None:
    """Make *environment* match its lock."""
    is_node = environment == "node"
    lock = FOLDER / "package-lock.json" if is_node else lock_of(environment)
    folder = NODE_MODULES if is_node else ENVIRONMENTS / environment
    stamp = folder / "installed.txt"
    if is_node:
        check_node()
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    sys.stderr.write(f"clients: installing {lock.relative_to(ROOT)}\n")
    if is_node:
        _run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], FOLDER)
    else:
        _install_python(environment, folder, lock)
    stamp.write_text(wanted)


def check_node() -> None:
    """Raises ``CannotInstall`` without a Node.js version that the clients support."""
    found = shutil.which("node")
    version = subprocess.check_output([found, "--version"], text=True).strip() if found else "none"
    if found is None or shutil.which("npm") is None or int(version[1:].partition(".")[0]) < OLDEST_NODE:
        raise CannotInstall(
            f"Node.js {OLDEST_NODE} or newer and npm are required; found: {version}. "
            "Debian 13, Ubuntu 25: apt-get install nodejs npm; Mac: brew install node"
        )


def _install_python(environment: str, folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    python = python_of(environment)
    if _UV.exists():
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _run([str(_UV), "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(lock)])
    else:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "-r",
                str(lock),
            ]
        )


def _run(command: list[str], folder: Path = ROOT) -> None:
    if subprocess.run(command, cwd=folder).returncode:
        raise CannotInstall(f"{command[0]} failed; the reason is above")
