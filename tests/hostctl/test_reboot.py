"""A reboot: from what a Mac's own commands print to advice with the command to give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostctl import domains, launchd, reboot
from hostctl.reboot import Advice, Job, Outlook, advice, job, service_advice, told
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


def test_a_mac_that_sleeps_on_mains_power_is_known() -> None:
    text = "Battery Power:\n sleep  1\n displaysleep 2\nAC Power:\n displaysleep 10\n sleep  {}\n"
    assert reboot.sleeps(text.format("1 (sleep prevented by sharingd)"))
    assert not reboot.sleeps(text.format("0"))
    assert not reboot.sleeps("")


def test_a_setting_is_found_by_its_whole_name() -> None:
    text = "System-wide power settings:\nCurrently in use:\n Sleep On Power Button 1\n sleep  0\n"
    assert reboot.setting(text, "sleep") == "0"
    assert reboot.setting(text, "autorestart") == ""


def test_low_power_mode_is_found_under_both_of_its_names() -> None:
    for text, name in (
        (" lowpowermode         1\n", "lowpowermode"),
        (" powermode            1\n", "powermode"),
        (" powermode            2\n", ""),  # high power
        (" lowpowermode         0\n", ""),
        ("", ""),
    ):
        assert reboot.low_power(text) == name


def test_filevault_is_on_only_when_fdesetup_says_so() -> None:
    assert reboot.filevault("true\n")
    assert not reboot.filevault("false\n")
    assert not reboot.filevault("")


def test_a_job_is_read_from_its_own_lines_and_not_from_those_of_its_blocks() -> None:
    found = job("x", PRINTED)
    assert found == Job("x", "not running", 3, "78", "inefficient")
    assert job("x", PRINTED.replace("inefficient", "false")).pended == ""
    assert job("x", PRINTED.replace("78: EX_CONFIG", "(never exited)")).last_exit == "(never exited)"
    assert job("x", "") == Job("x", "")


def test_each_thing_that_keeps_a_mac_from_coming_back_has_its_command() -> None:
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
    assert outlook.starts_alone
    (docker,) = cures(replace(outlook, auto_login=True), native=False)
    assert "Docker Desktop" in docker


def test_filevault_is_told_instead_of_a_login_that_it_forbids() -> None:
    outlook = replace(MAC, filevault=True, auto_login=False)
    (found,) = advice(outlook, native=True)
    assert "FileVault" in found.what
    assert "System Settings" not in found.cure
    assert not outlook.starts_alone


@pytest.mark.parametrize(
    ("found", "what", "cure"),
    [
        (replace(HELD, wake="launchctl kickstart x"), "holds a.manager back", "launchctl kickstart x"),
        (Job("a.manager", "not running", 1, "0"), "can't use its settings", "make restart"),
        (Job("a.manager", "not running", 9, "78"), "can't start a.manager", "make install"),
        (Job("a.manager", "spawn scheduled", 9, "1"), "status 1", "logs/manager.launchd.log"),
    ],
)  # fmt: skip
def test_a_job_that_does_not_run_is_told_with_its_cure(found: Job, what: str, cure: str) -> None:
    (told,) = service_advice(replace(MAC, jobs=(found,)))
    assert what in told.what
    assert cure in told.cure


def test_a_job_that_runs_or_was_never_started_is_none_to_tell() -> None:
    jobs = (Job("a", "running", 4, "1", "inefficient"), Job("b", "not running", 0, "(never exited)"))
    assert list(service_advice(replace(MAC, jobs=jobs))) == []


def test_advice_is_listed_with_its_commands_or_not_at_all() -> None:
    assert told([]) == ""
    assert "  - it sleeps\n      -> sudo pmset" in told([Advice("it sleeps", "sudo pmset")])


@pytest.mark.process
def test_a_mac_s_own_commands_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Mac(tmp_path)
    monkeypatch.setattr(launchd, "DAEMONS", mac.daemons)
    with mac.here():
        services = domains.find(mac.place, mac.environ)
        mac.answer(HEADLESS)
        new = reboot.read(mac.place, services, mac.environ)
        assert new == replace(MAC, auto_login=False, filevault=True, sleeps=True, autorestart=False)
        mac.answer(WELL)
        assert reboot.read(mac.place, services, mac.environ) == MAC
