"""Advice about reboots, from the output of a Mac's commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostctl import domains, launchd, reboot
from hostctl.reboot import Advice, Job, Outlook, advice, job, listed, service_advice
from tests.hostctl.darwin import HEADLESS, WELL, Mac

MAC = Outlook(mac=True)
HELD = Job("a.manager", "not running", pended="speculative")
PRINTED = """gui/501/com.vision-insight.manager = {
	active count = 1
	path = /Users/ann/Library/LaunchAgents/com.vision-insight.manager.plist
	state = not running

	environment = {
		PATH => /usr/bin
	}
	runs = 3
	last exit code = 78: EX_CONFIG
	resource coalition = {
		state = active
	}
	pended nondemand spawn = inefficient
}
"""


def cures(outlook: Outlook, *, native: bool = True) -> list[str]:
    return [found.cure for found in advice(outlook, native=native)]


def test_sleep_on_mains_power_is_detected() -> None:
    text = "Battery Power:\n sleep  1\n displaysleep 2\nAC Power:\n displaysleep 10\n sleep  {}\n"
    assert reboot.sleeps(text.format("1 (sleep prevented by sharingd)"))
    assert not reboot.sleeps(text.format("0"))
    assert not reboot.sleeps("")


def test_a_setting_is_found_by_its_whole_name() -> None:
    text = "System-wide power settings:\nCurrently in use:\n Sleep On Power Button 1\n sleep  0\n"
    assert reboot.setting(text, "sleep") == "0"
    assert reboot.setting(text, "autorestart") == ""


def test_low_power_mode_is_found_under_both_names() -> None:
    for text, name in (
        (" lowpowermode         1\n", "lowpowermode"),
        (" powermode            1\n", "powermode"),
        (" powermode            2\n", ""),  # high power
        (" lowpowermode         0\n", ""),
        ("", ""),
    ):
        assert reboot.low_power(text) == name


def test_filevault_is_on_if_fdesetup_says_so() -> None:
    assert reboot.filevault("true\n")
    assert not reboot.filevault("false\n")
    assert not reboot.filevault("")


def test_nested_blocks_of_a_job_are_ignored() -> None:
    found = job("x", PRINTED)
    assert found == Job("x", "not running", 3, "78", "inefficient")
    assert job("x", PRINTED.replace("inefficient", "false")).pended == ""
    assert job("x", PRINTED.replace("78: EX_CONFIG", "(never exited)")).last_exit == "(never exited)"
    assert job("x", "") == Job("x", "")


def test_each_obstacle_to_an_automatic_start_has_its_command() -> None:
    for outlook, cure in (
        (replace(MAC, auto_login=False), "sysadminctl -autologin"),
        (replace(MAC, filevault=True), "make install BOOT=1"),
        (replace(MAC, filevault=True, at_boot=True), "sudo fdesetup authrestart"),
        (replace(MAC, over_ssh=True), "make install BOOT=1"),
        (replace(MAC, low_power="powermode"), "sudo pmset -a powermode 0"),
        (replace(MAC, sleeps=True), "sudo pmset -a sleep 0"),
        (replace(MAC, autorestart=False), "sudo pmset -a autorestart 1"),
        (Outlook(linger=False), "sudo loginctl enable-linger"),
    ):
        (found,) = cures(outlook)
        assert cure in found
    assert cures(MAC) == cures(Outlook()) == []


def test_a_daemon_needs_no_login_and_no_docker() -> None:
    outlook = replace(MAC, at_boot=True, auto_login=False, docker_at_login=False)
    assert cures(outlook) == []
    assert outlook.starts_without_login
    (docker,) = cures(replace(outlook, auto_login=True), native=False)
    assert "Docker Desktop" in docker


def test_with_filevault_the_advice_is_not_to_log_in_automatically() -> None:
    outlook = replace(MAC, filevault=True, auto_login=False)
    (found,) = advice(outlook, native=True)
    assert "FileVault" in found.what
    assert "System Settings" not in found.cure
    assert not outlook.starts_without_login


JOBS = [
    (replace(HELD, wake="launchctl kickstart x"), "delays a.manager", "launchctl kickstart x"),
    (Job("a.manager", "not running", 1, "0"), "settings are invalid", "make restart"),
    (Job("a.manager", "not running", 9, "78"), "can't start a.manager", "make install"),
    (Job("a.manager", "spawn scheduled", 9, "1"), "status 1", "logs/manager.launchd.log"),
]


def test_a_job_that_does_not_run_is_reported_with_its_fix() -> None:
    for found, what, cure in JOBS:
        (found_advice,) = service_advice(replace(MAC, jobs=(found,)))
        assert what in found_advice.what
        assert cure in found_advice.cure


def test_a_job_that_runs_or_was_never_started_is_not_reported() -> None:
    jobs = (Job("a", "running", 4, "1", "inefficient"), Job("b", "not running", 0, "(never exited)"))
    assert list(service_advice(replace(MAC, jobs=jobs))) == []


def test_advice_is_listed_with_its_commands() -> None:
    assert listed([]) == ""
    assert "  - it sleeps\n      -> sudo pmset" in listed([Advice("it sleeps", "sudo pmset")])


@pytest.mark.process
def test_the_facts_come_from_a_mac_s_own_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac = Mac(tmp_path)
    monkeypatch.setattr(launchd, "DAEMONS", mac.daemons)
    with mac.here():
        services = domains.find(mac.place, mac.environ)
        mac.answer(HEADLESS)
        new = reboot.read(mac.place, services, mac.environ)
        assert new == replace(MAC, auto_login=False, filevault=True, sleeps=True, autorestart=False)
        mac.answer(WELL)
        assert reboot.read(mac.place, services, mac.environ) == MAC
