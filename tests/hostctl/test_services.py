"""The definitions of the services, and the commands for launchd and systemd.

launchd is a stand-in; test_launchd.py has more. systemd is tested here without a running one;
tests/live/test_systemd.py has the rest.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import Settings
from contracts.settings.file import load
from hostctl.launchd import Launchd
from hostctl.local_stack import ROOT
from hostctl.services import TIERS, Installation, Tier
from hostctl.systemd import Systemd
from hostctl.units import definition, stop_s
from manager.server import shutdown_bound_s
from testkit.needs import lacking
from tests.hostctl.darwin import Mac
from tests.hostctl.machines import LAUNCHD, SYSTEMD

# The keys of launchd.plist(5) in our definitions, with their types.
KNOWN: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "WorkingDirectory": str,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "LimitLoadToSessionType": list,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a drain timeout far above the default."""
    text = (
        (ROOT / "config.yaml").read_text().replace("manager:\n", "manager:\n  drain_timeout_s: 300\n")
    )
    (tmp_path / "config.yaml").write_text(text)
    return load(tmp_path / "config.yaml", {})


def place_at(root: Path, home: Path) -> Installation:
    for folder in ("launchd", "packaging"):
        shutil.copytree(ROOT / folder, root / folder)
    return Installation(root, home, 501, "ann")


class TestLaunchd:
    def agent(self, tmp_path: Path, settings: Settings, tier: Tier) -> dict[str, Any]:
        place = place_at(tmp_path / tier / "vision & insight", tmp_path)
        step = definition(Launchd(place), tier, place, settings)
        agent: dict[str, Any] = plistlib.loads(step.text.encode())
        return agent

    def test_an_agent_is_complete_restarts_after_failures_only_and_contains_no_secret(
        self, tmp_path: Path, settings: Settings
    ) -> None:
        for tier in TIERS:
            agent = self.agent(tmp_path, settings, tier)
            assert {key: type(value) for key, value in agent.items()} == KNOWN
            assert agent["Label"] == f"com.vision-insight.{tier}"
            assert agent["ProcessType"] == "Interactive"
            assert agent["RunAtLoad"] is True
            assert agent["KeepAlive"] == {"SuccessfulExit": False}
            root = str(tmp_path / tier / "vision & insight")
            assert agent["WorkingDirectory"] == root
            assert agent["ProgramArguments"] == [f"{root}/.venv/bin/python", "-m", tier, "--log-file"]
            assert "@" not in str(agent)
            variables = {"PATH", "PYTHONUNBUFFERED", "VISION_SUPERVISOR"}
            assert set(agent["EnvironmentVariables"]) == variables

    def test_it_is_not_killed_while_it_drains(self, tmp_path: Path, settings: Settings) -> None:
        agent = self.agent(tmp_path, settings, "manager")
        assert agent["ExitTimeOut"] > shutdown_bound_s(settings) > 300

    def test_an_activation_loads_the_new_definition_with_the_modern_subcommands(
        self, tmp_path: Path, settings: Settings
    ) -> None:
        mac = Mac(tmp_path)
        services = Launchd(mac.place)
        target = "gui/501/com.vision-insight.manager"
        with mac.here():
            mac.perform([definition(services, "manager", mac.place, settings)])
            mac.perform(services.activate("manager"))
        assert mac.calls() == [
            f"bootout {target}",
            f"enable {target}",
            f"bootstrap gui/501 {services.file('manager')}",
            f"kickstart {target}",
        ]

    def test_unloading_a_service_that_is_not_loaded_succeeds(self, tmp_path: Path) -> None:
        mac = Mac(tmp_path)
        with mac.here():
            assert mac.perform(Launchd(mac.place).deactivate("manager")) == [
                "unload com.vision-insight.manager"
            ]

    def test_a_service_runs_if_print_says_so(self) -> None:
        printed = (
            "com.vision-insight.manager = {\n\tactive count = 1\n\tstate = running\n\tpid = 7\n}\n"
        )
        assert LAUNCHD.is_running(0, printed)
        assert not LAUNCHD.is_running(0, printed.replace("state = running", "state = not running"))
        assert not LAUNCHD.is_running(113, "")

    def test_older_services_are_recognized_by_name(self) -> None:
        names = [
            "com.vision-insight.manager.plist",
            "com.vision-insight.gateway.plist",
            "com.vision-insight-api.worker-manager.plist",
            "com.visioninsight.manager.plist",
            "com.vision-insight.worker-manager.plist",
            "com.voice-insight.manager.plist",
            "com.apple.something.plist",
            "notes about vision-insight.txt",
        ]
        assert LAUNCHD.older(names) == names[2:5]


class TestSystemd:
    @pytest.mark.parametrize("tier", TIERS)
    @pytest.mark.process
    def test_a_unit_is_valid_in_a_folder_with_odd_characters(
        self, tmp_path: Path, settings: Settings, tier: Tier
    ) -> None:
        if shutil.which("systemd-analyze") is None:
            lacking("systemd-analyze")
        place = place_at(tmp_path / "vision insight 100%, ä & (new)", tmp_path)
        place.python.parent.mkdir(parents=True)
        place.python.symlink_to("/bin/true")
        step = definition(Systemd(place, tmp_path / "conf"), tier, place, settings)
        step.path.parent.mkdir(parents=True)
        step.path.write_text(step.text)
        runtime = tmp_path / "runtime"
        runtime.mkdir(mode=0o700)
        done = subprocess.run(
            ["systemd-analyze", "--user", "verify", str(step.path)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_it_is_not_killed_while_it_drains(self, tmp_path: Path, settings: Settings) -> None:
        place = place_at(tmp_path / "root", tmp_path)
        for tier in TIERS:
            text = definition(Systemd(place), tier, place, settings).text
            assert f"TimeoutStopSec={stop_s(tier, settings):.0f}\n" in text
            assert "@ROOT@" not in text

    def test_only_the_manager_stops_and_replaces_workers(self) -> None:
        unit = (ROOT / SYSTEMD.template("manager")).read_text()
        assert "KillMode=mixed\n" in unit  # only the manager gets SIGTERM
        assert "OOMPolicy=continue\n" in unit
        assert "RestartPreventExitStatus=2\n" in unit

    def test_units_are_in_the_owner_s_unit_folder(self, tmp_path: Path) -> None:
        place = Installation(tmp_path, tmp_path, 1000, "ann")
        folder = tmp_path / "systemd" / "user"
        assert Systemd(place, tmp_path).file("manager") == folder / "vision-insight-manager.service"
        assert SYSTEMD.file("manager").parent == Path("/home/ann/.config/systemd/user")

    def test_older_services_are_recognized_by_name(self) -> None:
        names = ["vision-insight-manager.service", "vision-insight-worker-manager.service", "x.service"]
        assert SYSTEMD.older(names) == ["vision-insight-worker-manager.service"]
