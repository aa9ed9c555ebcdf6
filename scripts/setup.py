"""Make .venv and install a lock file into it: ``python3 scripts/setup.py gateway|cli|host|dev``.

``python3 scripts/setup.py run -m MODULE ...`` runs a module on a suitable Python, without a .venv.

It runs on any python3 to report one that is too old: standard library only, and no syntax newer than
Python 3.6. If no installed Python is suitable, it downloads one into .python. It is fast if nothing has
changed, and can be interrupted and repeated.
"""

import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "installed.txt")
MANAGED = os.path.join(ROOT, ".python")  # a downloaded Python, and the uv that downloads it
OLDEST, NEWEST = (3, 11), (3, 14)
FETCHED = "3.13"
OLDEST_MACOS = 14  # required by the packages of MLX, NumPy and SciPy
UV = "uv>=0.9,<1"
NEEDED_GB = {"gateway": 0.3, "cli": 0.3, "host": 2.0, "dev": 2.5}
# Each set contains the ones before it.
CONTAINS = {
    "gateway": "gateway",
    "cli": "gateway cli",
    "host": "gateway cli host",
    "dev": "gateway cli host dev",
}
# Code with which an interpreter prints its facts.
_ABOUT = (
    "import platform, sys, sysconfig; print(sys.version_info[0], sys.version_info[1], "
    "platform.machine(), int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))"
)


class CannotSetUp(Exception):
    """The message is one line: the problem and the fix."""


class Build(NamedTuple):
    """An interpreter: its version and processor architecture."""

    path: str
    version: "tuple[int, int]"
    machine: str
    threaded: bool  # a free-threaded build


class MacFacts(NamedTuple):
    macos: "tuple[int, ...]"  # () when unknown
    arm: bool  # Apple Silicon, even if this Python runs under Rosetta
    root: bool


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "host"
    try:
        mac = this_mac()
        if mac:
            check_mac(mac)
        machine = "arm64" if mac else ""
        python = find_python(this_python(), builds, machine) or fetch_python(this_python(), machine)
        if wanted == "run":
            os.execv(python, [python, *sys.argv[2:]])
        if not installed(wanted):
            check_venv_module(python)
            check_disk(wanted, shutil.disk_usage(ROOT).free / 1e9)
            make_venv(python, machine)
            install(wanted)
        put_command(VENV)
    except CannotSetUp as exc:
        sys.stderr.write(f"setup: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("setup: interrupted; run it again to continue\n")
        return 130
    return 0


# --- this machine ---------------------------------------------------------------------------------


def this_mac() -> "MacFacts | None":
    """The facts about this Mac; None on another system."""
    name = os.uname()
    if name.sysname != "Darwin":
        return None
    # platform.mac_ver() returns 10.16 on a Python built for macOS 10.
    version = output(["sw_vers", "-productVersion"]).split(".")
    macos = tuple(int(part) for part in version if part.isdigit())
    arm = name.machine == "arm64" or output(["sysctl", "-n", "hw.optional.arm64"]) == "1"
    return MacFacts(macos, arm, os.getuid() == 0)


def check_mac(mac: MacFacts) -> None:
    if not mac.arm:
        raise CannotSetUp("this Mac has an Intel processor; MLX needs Apple Silicon (M1 or newer)")
    if mac.macos and mac.macos[0] < OLDEST_MACOS:
        raise CannotSetUp(
            f"macOS {OLDEST_MACOS} or newer is required; this is {'.'.join(map(str, mac.macos))}: "
            "update it in System Settings > General > Software Update"
        )
    if mac.root:
        raise CannotSetUp(
            "this runs as root, but packages and services belong to your own user: "
            "run the same command without sudo"
        )


def output(command: "list[str]") -> str:
    """The output of *command*; "" if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()


# --- find a suitable Python -----------------------------------------------------------------------


def this_python() -> Build:
    threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return Build(sys.executable, sys.version_info[:2], platform.machine(), threaded)


def find_python(here: Build, look: "Callable[[str], list[Build]]", machine: str) -> "str | None":
    """*here* if it is suitable, else the newest suitable one found by *look*; None if there is none.

    *machine*: the required processor architecture; "" for any.
    """
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    for name in ["", *names]:
        for build in look(name) if name else [here]:
            if not unfit(build, machine):
                return build.path
    return None


def unfit(build: Build, machine: str) -> str:
    """Why *build* is not suitable; "" if it is."""
    version = f"{build.version[0]}.{build.version[1]}"
    if not OLDEST <= build.version <= NEWEST:
        return f"python3 is {version}"
    if machine and build.machine != machine:
        return f"python3 is built for {build.machine}, but MLX needs one for {machine}"
    if build.threaded:
        return f"python3 is a free-threaded {version}, for which some packages are missing"
    return ""


def builds(name: str) -> "list[Build]":
    """All Pythons called *name*: the downloaded one, those on PATH, Homebrew's."""
    fetched = glob.glob(os.path.join(MANAGED, "cpython-*", "bin", name))
    folders = [*os.get_exec_path(), "/opt/homebrew/bin"]
    paths = [*sorted(fetched), *(os.path.join(folder, name) for folder in folders)]
    found = [build_of(path) for path in paths if os.access(path, os.X_OK)]
    return [build for build in found if build]


def build_of(path: str) -> "Build | None":
    """The facts about *path*; None if it does not run, such as a pyenv shim of an inactive version."""
    facts = output([path, "-c", _ABOUT]).split()
    if len(facts) != 4:
        return None
    return Build(path, (int(facts[0]), int(facts[1])), facts[2], facts[3] == "1")


def fetch_python(here: Build, machine: str) -> str:
    """Download CPython into .python with uv, which pip downloads; returns its path."""
    why = f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is required, but {unfit(here, machine)}"
    cure = (
        "Mac: the installer of python.org, or brew install python@3.13; "
        "Debian/Ubuntu: apt-get install python3.11 python3.11-venv; "
        "or name one: make PYTHON=/path/to/python3.13 ..."
    )
    if os.environ.get("DRY_RUN", "") not in ("", "0"):
        raise CannotSetUp(f"{why}; DRY_RUN does not download one. {cure}")
    say(f"{why}: downloading CPython {FETCHED} into .python")
    tools = os.path.join(MANAGED, "tools")
    uv = os.path.join(tools, "bin", "uv")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # On a Mac with its full name: under Rosetta uv would choose an x86_64 build.
    kind = f"cpython-{FETCHED}-macos-aarch64-none" if machine == "arm64" else FETCHED
    fetch = [uv, "python", "install", "--no-bin", "--install-dir", MANAGED, kind]
    if not os.path.exists(uv):
        attempt([*pip, "--target", tools, UV], why, cure)
    attempt(fetch, why, cure)
    python = find_python(here, builds, machine)
    if not python:
        raise CannotSetUp(f"{why}; the downloaded one in .python does not run. {cure}")
    return python


def attempt(command: "list[str]", why: str, cure: str) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as exc:
        raise CannotSetUp(f"{why}; the download failed ({exc}). {cure}") from exc
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-1:] or ["unknown reason"]
        reason = last[0].replace("cause: ", "")
        raise CannotSetUp(f"{why}; the download failed ({reason}). {cure}")


# --- .venv ----------------------------------------------------------------------------------------


def check_venv_module(python: str) -> None:
    probe = subprocess.run([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL)
    if probe.returncode:
        version = subprocess.check_output(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        ).decode()
        raise CannotSetUp(
            "this Python has no venv module. Debian/Ubuntu: "
            f"apt-get install python{version.strip()}-venv"
        )


def check_disk(wanted: str, free: float) -> None:
    if free < NEEDED_GB[wanted]:
        raise CannotSetUp(
            f"{free:.1f} GB are free in {ROOT}, but {NEEDED_GB[wanted]:.1f} GB are required: "
            "free space and run it again"
        )


def venv_python() -> str:
    return os.path.join(VENV, "bin", "python")


def make_venv(python: str, machine: str) -> None:
    there = build_of(venv_python()) if os.path.exists(venv_python()) else None
    if there and not unfit(there, machine):
        return
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    run([python, "-m", "venv", VENV], "the virtual environment could not be made")


def install(wanted: str) -> None:
    say(f"installing {lock_path(wanted)} (a minute or two at the first time)")
    if os.path.exists(STAMP):
        os.remove(STAMP)  # an interrupted run must not count as complete
    lock = os.path.join(ROOT, lock_path(wanted))
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # uv is in a separate folder, because `uv pip sync` removes packages that are not in the lock.
    tools = os.path.join(VENV, "tools")
    uv = os.path.join(tools, "bin", "uv")
    if not os.path.exists(uv):
        subprocess.run([*pip, "--target", tools, UV], stderr=subprocess.DEVNULL)
    done = False
    if os.path.exists(uv):
        sync = [uv, "pip", "sync", "--quiet", "--python", venv_python(), "--require-hashes", lock]
        done = subprocess.run(sync).returncode == 0
    if not done:
        say("uv is not available; pip takes longer")
        run([*pip, "--no-deps", "--require-hashes", "-r", lock], "the packages could not be installed")
    with open(STAMP, "w") as stamp:
        stamp.write(f"{wanted} {lock_hash(wanted)}\n")


def put_command(venv: str) -> None:
    """Add the command ``vision`` to *venv*: a link, because our code is not installed there."""
    link = os.path.join(venv, "bin", "vision")
    if not os.path.lexists(link):
        os.symlink(os.path.join("..", "..", "bin", "vision"), link)


def installed(wanted: str) -> bool:
    if not os.path.exists(STAMP) or not os.path.exists(venv_python()):
        return False
    with open(STAMP) as stamp:
        have, found_hash = stamp.read().split()
    return wanted in CONTAINS.get(have, have).split() and found_hash == lock_hash(have)


def lock_path(wanted: str) -> str:
    return os.path.join("requirements", wanted + ".lock")


def lock_hash(wanted: str) -> str:
    with open(os.path.join(ROOT, lock_path(wanted)), "rb") as lock:
        return hashlib.sha256(lock.read()).hexdigest()


def run(command: "list[str]", failure: str) -> None:
    if subprocess.run(command).returncode:
        raise CannotSetUp(f"{failure}; the reason is above")


def say(text: str) -> None:
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
