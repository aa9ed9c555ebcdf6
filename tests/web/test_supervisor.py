"""A tier with invalid settings exits and is not restarted, whichever supervisor started it."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from web.supervisor import VARIABLE, wrong_settings


def test_invalid_settings_exit_with_0_only_under_launchd() -> None:
    assert wrong_settings("config.yaml:3: x", {}) == (2, "config.yaml:3: x")
    assert wrong_settings("config.yaml:3: x", {VARIABLE: "systemd"})[0] == 2
    status, words = wrong_settings("config.yaml:3: x", {VARIABLE: "launchd"})
    assert status == 0
    assert words.startswith("config.yaml:3: x\n")
    assert "make restart" in words


@pytest.mark.process
def test_both_tiers_exit_as_their_property_lists_require(tmp_path: Path) -> None:
    for tier in ("manager", "gateway"):
        file = ROOT / "launchd" / f"com.vision-insight.{tier}.plist"
        agent = plistlib.loads(file.read_bytes())
        assert agent["KeepAlive"] == {"SuccessfulExit": False}
        done = subprocess.run(
            [sys.executable, "-m", tier, "--config", str(tmp_path / "nowhere.yaml")],
            cwd=ROOT,
            env={**os.environ, **agent["EnvironmentVariables"]},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "launchd will not restart it" in done.stderr
