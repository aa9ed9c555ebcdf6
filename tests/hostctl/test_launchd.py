"""Every verb with a stateful stand-in for launchctl: statuses 0 and 37, delayed starts, drains.

Time is virtual: a drain of 45 s takes none. Steps that run .venv's Python run in this process
(definitions) or are skipped (packages, waiting for the tiers).
"""

from __future__ import annotations

import plistlib
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from contracts.settings.file import load
from hostctl import domains, launchd, plans
from hostctl.launchd import Launchd, label
from hostctl.local_stack import ROOT
from hostctl.machine import Machine, installed
from hostctl.services import TIERS, Tier
from hostctl.steps import Await, Remove, Run, Step, StepFailed
from hostctl.units import definition
from tests.hostctl.darwin import Mac
from tests.hostctl.machines import mac as machine_of

pytestmark = pytest.mark.process

BOTH = [label("gateway"), label("manager")]
SETTINGS = load(ROOT / "config.yaml", {})


class Owner:
    """The owner of a Mac, who runs the make targets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **levers: str) -> None:
        self.root = folder / "vision insight"
        shutil.copytree(ROOT / "launchd", self.root / "launchd")
        (self.root / ".env.example").write_text("")
        self._make_venv()
        self.mac = Mac(folder, self.root, levers=levers)
        monkeypatch.setattr(launchd, "DAEMONS", self.mac.daemons)

    def _make_venv(self) -> None:
        for name in (".venv/bin/python", "logs/manager.log"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()

    @property
    def services(self) -> Launchd:
        return domains.find(self.mac.place, self.mac.environ)

    @property
    def machine(self) -> Machine:
        here = installed(self.services)
        return machine_of(installed=here, docker="absent", at_boot=self.services.kind == "daemon")

    def install(self, *, boot: bool | None = None) -> list[str]:
        self._make_venv()
        place, environ = self.mac.place, self.mac.environ
        services = domains.find(place, environ, boot=boot)
        other = domains.other_kind(place, environ, services)
        plan = plans.install_plan(
            self.machine, place, services, native=True, env_text="", leaving=other
        )
        return self._do(plan, services)

    def start(self) -> list[str]:
        return self._do(plans.gateway_plan(self.machine, self.mac.place, self.services, "start"))

    def stop(self) -> list[str]:
        return self._do(plans.gateway_plan(self.machine, self.mac.place, self.services, "stop"))

    def restart(self) -> list[str]:
        return self._do(plans.restart_plan(self.machine, self.mac.place, self.services))

    def upgrade(self) -> list[str]:
        return self.install()  # after a git pull

    def uninstall(self) -> list[str]:
        services = self.services
        other = domains.other_kind(self.mac.place, self.mac.environ, services)
        plan = plans.uninstall_plan(self.machine, self.mac.place, services, purge=False, leaving=other)
        return self._do(plan, services)

    def _do(self, plan: list[Step], services: Launchd | None = None) -> list[str]:
        return self.mac.perform(self._here(plan, services or self.services))

    def _here(self, plan: list[Step], services: Launchd) -> Iterator[Step]:
        for step in plan:
            if isinstance(step, Run) and step.argv[0] in (str(self.mac.place.python), sys.executable):
                if "unit" in step.argv:
                    tier: Tier = "manager" if "manager" in step.argv else "gateway"
                    assert ("--boot" in step.argv) == (services.kind == "daemon")
                    yield definition(services, tier, self.mac.place, SETTINGS)
            else:
                if isinstance(step, Remove):
                    assert self.mac.loaded() == [], f"{step} while a service still runs"
                yield step

    def plist(self, tier: Tier) -> dict[str, Any]:
        found: dict[str, Any] = plistlib.loads(self.services.file(tier).read_bytes())
        return found

    def interrupted_stop(self, tier: Tier = "gateway") -> None:
        """`make stop`, interrupted by Ctrl-C during its wait."""
        unload = next(s for s in self.services.stop(tier) if isinstance(s, Run))
        self.mac.perform([unload])
        assert f"{self.services.domain}/{label(tier)}" not in self.mac.running()


def both(domain: str) -> list[str]:
    return [f"{domain}/{name}" for name in BOTH]


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    owner = Owner(tmp_path, monkeypatch)
    with owner.mac.here():
        yield owner


READINGS = [
    {"KICK0": "0", "PENDED": "0", "DRAIN_S": "0.05"},
    *(
        {"KICK0": kick0, "PENDED": pended, "DRAIN_S": "45", "DRAIN_S_GATEWAY": "25"}
        for kick0, pended in product(("0", "1"), ("0", "1"))
    ),
]


@pytest.mark.parametrize("boot", [False, True], ids=["agents", "daemons"])
def test_every_verb_works_twice_in_a_row_and_during_a_drain(
    boot: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, levers in enumerate(READINGS):
        owner = Owner(tmp_path / str(number), monkeypatch, **levers)
        with owner.mac.here():
            twice_in_a_row(owner, boot=boot)
        assert not owner.mac.killed(), levers


def twice_in_a_row(owner: Owner, *, boot: bool) -> None:
    levers, domain = owner.mac.levers, "system" if boot else "gui/501"
    for _ in range(2):
        owner.install(boot=boot)
        assert owner.mac.running() == both(domain), levers
    for _ in range(2):
        owner.restart()
        assert owner.mac.running() == both(domain), levers
    for _ in range(2):
        owner.stop()
        assert owner.mac.loaded() == [f"{domain}/{label('manager')}"], levers
    for _ in range(2):
        owner.start()
        assert owner.mac.running() == both(domain), levers
    owner.interrupted_stop()
    owner.start()
    assert owner.mac.running() == both(domain), levers
    for _ in range(2):
        owner.upgrade()
        assert owner.mac.running() == both(domain), levers
    for _ in range(2):
        owner.uninstall()
        assert owner.mac.loaded() == [], levers
        assert not (owner.root / ".venv").exists()
        assert not (owner.root / "logs").exists()
        assert list(owner.mac.daemons.iterdir()) == []


def test_status_37_of_kickstart_is_a_success(owner: Owner) -> None:
    owner.install()
    owner.start()
    assert owner.mac.calls()[-1] == f"kickstart gui/501/{label('gateway')}"
    assert owner.mac.running() == both("gui/501")


def test_a_start_that_macos_delays_is_forced(owner: Owner) -> None:
    owner.mac.levers["PENDED"] = "1"
    owner.install()
    assert owner.mac.running() == both("gui/501")


def test_a_wait_is_announced_once_and_only_if_there_is_one(owner: Owner) -> None:
    assert not [line for line in owner.install() if "waiting" in line]
    owner.mac.levers["DRAIN_S"] = "45"
    lines = owner.restart()
    waiting = [line for line in lines if "waiting for open requests to finish" in line]
    assert len(waiting) == 2  # one per tier
    assert label("manager") in waiting[0]
    assert not [line for line in lines if "failed" in line.lower()]


def test_a_wait_is_longer_than_the_drain_that_launchd_allows(
    owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.mac.levers["DRAIN_S"] = "300"
    settings = tmp_path / "config.yaml"
    text = (ROOT / "config.yaml").read_text()
    settings.write_text(text.replace("manager:\n", "manager:\n  drain_timeout_s: 300\n", 1))
    monkeypatch.setattr("tests.hostctl.test_launchd.SETTINGS", load(settings, {}))
    owner.install()
    wait = next(s for s in owner.services.stop("manager") if isinstance(s, Await))
    assert wait.timeout_s > owner.plist("manager")["ExitTimeOut"] > 300
    owner.mac.perform(owner.services.restart("manager"))
    assert not owner.mac.killed()


def test_nothing_is_deleted_while_the_manager_still_runs(owner: Owner) -> None:
    owner.install()
    owner.mac.levers["UNKILLABLE"] = "1"
    before = sorted(owner.root.rglob("*"))
    with pytest.raises(StepFailed, match=r"launchctl kill SIGKILL gui/501/com\.vision-insight\."):
        owner.uninstall()
    assert sorted(owner.root.rglob("*")) == before
    assert installed(owner.services) == set(TIERS)
    del owner.mac.levers["UNKILLABLE"]


def test_a_stop_that_never_ends_fails_with_its_fix(owner: Owner) -> None:
    owner.install()
    owner.mac.levers["UNKILLABLE"] = "1"
    with pytest.raises(StepFailed, match=r"wait until com\.vision-insight\.gateway has stopped"):
        owner.stop()


def test_a_service_without_a_definition_is_stopped_before_its_python_is_removed(owner: Owner) -> None:
    owner.install()
    running = frozenset(TIERS)
    for tier in TIERS:
        owner.services.file(tier).unlink()
    machine = machine_of(running=running, docker="absent")
    plan = plans.uninstall_plan(machine, owner.mac.place, owner.services, purge=False)
    owner.mac.perform(plan)
    assert owner.mac.loaded() == []


class TestDomains:
    def test_without_a_login_at_the_screen_agents_use_the_user_domain(self, owner: Owner) -> None:
        owner.mac.levers["NO_GUI"] = "1"
        owner.install()
        assert owner.mac.running() == both("user/501")
        # They stay there after a later login at the screen.
        del owner.mac.levers["NO_GUI"]
        owner.restart()
        assert owner.mac.running() == both("user/501")

    def test_a_service_in_both_domains_is_stopped_in_both(self, owner: Owner) -> None:
        owner.install()
        second = domains.find(owner.mac.place, owner.mac.environ)
        place = owner.mac.place
        owner.mac.perform(Launchd(place, "user/501").start("manager"))
        assert len(owner.mac.loaded()) == 3
        assert second.elsewhere == ()
        assert owner.services.elsewhere == ("user/501",)
        owner.uninstall()
        assert owner.mac.loaded() == []

    def test_only_status_125_is_fixed_by_a_login(self, owner: Owner) -> None:
        gui = Launchd(owner.mac.place, "gui/501")
        owner.install()
        for tier in TIERS:
            owner.mac.perform(owner.services.stop(tier))
        owner.mac.levers["NO_GUI"] = "1"
        with pytest.raises(StepFailed, match=r"status 125.*log in at the Mac's screen once"):
            owner.mac.perform(gui.activate("manager"))
        del owner.mac.levers["NO_GUI"]
        gui.file("manager").chmod(0o666)
        with pytest.raises(StepFailed, match=r"status 5.*Input/output error.*plutil -lint") as failed:
            owner.mac.perform(gui.activate("manager"))
        assert "log in" not in str(failed.value)

    def test_starting_a_job_that_is_not_loaded_fails(self, owner: Owner) -> None:
        owner.install()
        owner.stop()
        owner.services.file("gateway").chmod(0o666)
        with pytest.raises(StepFailed, match=r"status 113.*make restart"):
            owner.start()


class TestBoot:
    def test_a_daemon_runs_as_its_owner_and_only_launchctl_needs_root(self, owner: Owner) -> None:
        owner.install(boot=True)
        for tier in TIERS:
            job = owner.plist(tier)
            assert job["UserName"] == "ann"
            assert job["EnvironmentVariables"]["HOME"] == str(owner.mac.home)
            assert "LimitLoadToSessionType" not in job
            assert owner.services.file(tier).parent == owner.mac.daemons
            assert not owner.services.file(tier).stat().st_mode & 0o022
        allowed = ("-v", "launchctl ", "install -m 0644 ")
        assert owner.mac.sudo_calls()
        assert all(call.startswith(allowed) for call in owner.mac.sudo_calls())

    def test_the_kind_stays_until_the_other_is_requested(self, owner: Owner) -> None:
        for boot, domain in ((True, "system"), (None, "system"), (False, "gui/501"), (None, "gui/501"),
                             (True, "system")):  # fmt: skip
            owner.install(boot=boot)
            assert owner.mac.running() == both(domain)
            assert owner.services.domain == domain
            agents = owner.mac.home / "Library" / "LaunchAgents"
            kept = {owner.mac.daemons: 2, agents: 0} if domain == "system" else {
                owner.mac.daemons: 0, agents: 2,
            }  # fmt: skip
            for folder, count in kept.items():
                assert len(list(folder.glob("*"))) == count
        owner.uninstall()
        assert owner.mac.loaded() == []

    def test_agents_need_no_administrator(self, owner: Owner) -> None:
        owner.install()
        owner.restart()
        owner.stop()
        owner.start()
        owner.uninstall()
        assert owner.mac.sudo_calls() == []

    def test_without_an_administrator_nothing_is_changed(self, owner: Owner) -> None:
        owner.install()
        owner.mac.levers["SUDO_REFUSES"] = "1"
        with pytest.raises(StepFailed, match="an administrator of this Mac"):
            owner.install(boot=True)
        assert owner.mac.running() == both("gui/501")
