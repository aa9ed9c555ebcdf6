"""Makes .venv and installs a lock file into it: ``python3 scripts/setup.py gateway|cli|host|dev``.

``python3 scripts/setup.py run -m MODULE ...`` runs a module on a Python that will do, before there is
a .venv.

Runs on whatever python3 there is, so: standard library only, and no syntax newer than Python 3.6, or
it could not say that it is too old. Quick when nothing has changed; safe to interrupt and repeat.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "installed.txt")
OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_GB = {"gateway": 0.3, "cli": 0.3, "host": 2.0, "dev": 2.5}
# A later set holds everything of the earlier ones.
CONTAINS = {
    "gateway": "gateway",
    "cli": "gateway cli",
    "host": "gateway cli host",
    "dev": "gateway cli host dev",
}


class CannotSetUp(Exception):
    """The message is one line: what is missing, and the cure."""


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "host"
    try:
        python = find_python(sys.version_info[:2], working)
        if wanted == "run":
            os.execv(python, [python, *sys.argv[2:]])
        if not installed(wanted):
            check_venv_module(python)
            check_disk(wanted, shutil.disk_usage(ROOT).free / 1e9)
            make_venv(python)
            install(wanted)
        put_command(VENV)
    except CannotSetUp as exc:
        sys.stderr.write(f"setup: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("setup: interrupted; run it again to go on\n")
        return 130
    return 0


def find_python(version: "tuple[int, int]", which: "Callable[[str], str | None]") -> str:
    """This interpreter when its *version* will do, else another that *which* finds."""
    if OLDEST <= version <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = which(f"python3.{minor}")
        if found:
            return found
    raise CannotSetUp(
        f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed, "
        f"python3 is {version[0]}.{version[1]}. "
        "Debian/Ubuntu: apt-get install python3.11 python3.11-venv; Mac: brew install python@3.12; "
        "or name one: make PYTHON=/path/to/python3.12 ..."
    )


def working(name: str) -> "str | None":
    """Where *name* is, if it runs: pyenv leaves shims on the path of versions that are not in use."""
    found = shutil.which(name)
    if not found or subprocess.run([found, "-c", "pass"], stderr=subprocess.DEVNULL).returncode:
        return None
    return found


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
            f"{free:.1f} GB are free in {ROOT} and {NEEDED_GB[wanted]:.1f} GB are needed: "
            "make room and run it again"
        )


def venv_python() -> str:
    return os.path.join(VENV, "bin", "python")


def make_venv(python: str) -> None:
    works = (
        os.path.exists(venv_python())
        and not subprocess.run([venv_python(), "-c", "pass"], stderr=subprocess.DEVNULL).returncode
    )
    if works:
        return
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    run([python, "-m", "venv", VENV], "the virtual environment could not be made")


def install(wanted: str) -> None:
    say(f"installing {lock_path(wanted)} (the first time: a minute or two)")
    if os.path.exists(STAMP):
        os.remove(STAMP)  # so that an interrupted run is not taken for a whole one
    lock = os.path.join(ROOT, lock_path(wanted))
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # uv lives beside the packages, not among them: `uv pip sync` removes what the lock does not name.
    tools = os.path.join(VENV, "tools")
    uv = os.path.join(tools, "bin", "uv")
    if not os.path.exists(uv):
        subprocess.run([*pip, "--target", tools, "uv>=0.9,<1"], stderr=subprocess.DEVNULL)
    done = False
    if os.path.exists(uv):
        sync = [uv, "pip", "sync", "--quiet", "--python", venv_python(), "--require-hashes", lock]
        done = subprocess.run(sync).returncode == 0
    if not done:
        say("uv is not to be had here; pip takes longer")
        run([*pip, "--no-deps", "--require-hashes", "-r", lock], "the packages could not be installed")
    with open(STAMP, "w") as stamp:
        stamp.write(f"{wanted} {lock_hash(wanted)}\n")


def put_command(venv: str) -> None:
    """``vision`` among the commands of *venv*: a link, as nothing of ours is installed there."""
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
