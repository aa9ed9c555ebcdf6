"""A server's limit of open files."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest


@pytest.mark.process
def test_a_server_raises_the_limit_of_open_files_that_launchd_sets() -> None:
    code = (
        "import resource as r; from web.serve import allow_many_connections as allow;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard));"
        "allow(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (8192 if hard == resource.RLIM_INFINITY else min(hard, 8192))
