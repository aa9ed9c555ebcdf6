"""A login session with a real ``systemd --user`` in its own namespaces, to run commands in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from hostctl.local_stack import ROOT
from testkit.needs import lacking

TOOL = ROOT / "tests" / "tools" / "user_systemd.sh"
_SHELL = """
while IFS= read -r command; do
  status=0; bash -c "$command" >"$SESSION_OUTPUT" 2>&1 </dev/null || status=$?
  echo "$status"
done
"""
_OURS = (
    "ARGS",
    "GATEWAY_",
    "MANAGER_",
    "WORKER_MANAGER_",
    "VISION_",
    "IDLE_TIMEOUT",
    "HF_",
    "MAKE",
    "MFLAGS",
)


def require_systemd() -> None:
    there = Path("/lib/systemd/systemd").exists() and shutil.which("systemctl")
    if not (there and os.geteuid() == 0 and shutil.which("unshare")):
        lacking("a real systemd, which needs root, Debian's systemd and unshare")


class Session:
    """``with Session(folder) as session: session.run("make install")``. *folder* is kept, so the next
    session is the same machine after a reboot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._conf = folder / "config home"
        self._output = folder / "output"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        require_systemd()
        self._folder.mkdir(parents=True, exist_ok=True)
        script = self._folder / "shell.sh"
        script.write_text(_SHELL)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
        environ |= {
            "HOME": str(self._folder),
            "USER_SYSTEMD_CONF": str(self._conf),
            "SESSION_OUTPUT": str(self._output),
        }
        self._process = subprocess.Popen(
            ["bash", str(TOOL), str(script)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.run("true")[0] == 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Shut the machine down: systemd stops all services."""
        process = self._process
        assert process is not None
        self._input.close()
        process.wait(90)
        assert process.stdout is not None
        process.stdout.close()

    @property
    def _input(self) -> IO[str]:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    def run(self, command: str, cwd: Path | None = None) -> tuple[int, str]:
        """The exit status and output of *command*."""
        assert self._process is not None
        assert self._process.stdout is not None
        where = f"cd '{cwd}' && " if cwd else ""
        self._input.write(f"{where}{command}\n")
        self._input.flush()
        status = self._process.stdout.readline()
        assert status, "the session is gone"
        return int(status), self._output.read_text(errors="replace")

    def cut_power(self) -> None:
        """Kill everything inside at once."""
        assert self._process is not None
        (unshare,) = [
            p for p in psutil.Process(self._process.pid).children(True) if p.name() == "unshare"
        ]
        unshare.kill()
        self._process.wait(30)
