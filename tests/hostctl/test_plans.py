"""The plans of install, uninstall and the other verbs, for any machine."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.env_file import parse
from hostctl import plans
from hostctl.host import SETTINGS
from hostctl.machine import GIB, Machine
from hostctl.services import Installation
from hostctl.steps import Move, Remove, Run, Say, Step, StepFailed, Write, perform
from tests.hostctl.machines import LAUNCHD, LINUX_PLACE, MAC_PLACE, SYSTEMD, linux, mac


def place_in(folder: Path) -> Installation:
    (folder / ".env.example").write_text("# GATEWAY_PORT=8000\n")
    return Installation(folder, folder, 501, "ann")


def install(
    machine: Machine, place: Installation, *, native: bool, env_text: str | None = None
) -> list[Step]:
    services = LAUNCHD if machine.system == "Darwin" else SYSTEMD
    return plans.install_plan(machine, place, services, native=native, env_text=env_text)


def commands(steps: list[Step]) -> list[str]:
    return [" ".join(s.argv) for s in steps if isinstance(s, Run)]


def words(steps: list[Step]) -> str:
    return "\n".join(s.title for s in steps)


def env_of(steps: list[Step]) -> Write:
    (step,) = [s for s in steps if isinstance(s, Write)]
    return step


SMALL_MACHINES = [mac(ram_bytes=16 * GIB), linux(ram_bytes=16 * GIB)]


NATIVE_OPTIONS = [
    (frozenset(), "", False),
    (frozenset(), "1", True),
    (frozenset({"gateway"}), "", True),  # as it is
    (frozenset({"gateway"}), "0", False),
    (frozenset({"gateway"}), "no", False),
]


class TestInstall:
    def test_packages_are_first_and_services_follow_the_check_of_the_settings(
        self, tmp_path: Path
    ) -> None:
        found = commands(install(linux(), place_in(tmp_path), native=False))
        order = [
            "setup.py host",
            "hostctl check",
            "hostctl unit manager",
            "restart",
            "compose up",
            "wait",
        ]
        places = [next(i for i, c in enumerate(found) if word in c) for word in order]
        assert places == sorted(places)

    def test_a_small_machine_uses_the_small_settings_with_a_note(self, tmp_path: Path) -> None:
        for machine in SMALL_MACHINES:
            steps = install(machine, place_in(tmp_path), native=False)
            assert parse(env_of(steps).text)["VISION_CONFIG"] == "./config.16gb.yaml"
            assert "16 GB of memory: using ./config.16gb.yaml" in words(steps)

    def test_a_large_machine_uses_the_default_settings(self, tmp_path: Path) -> None:
        assert parse(env_of(install(mac(), place_in(tmp_path), native=False)).text) == {}

    def test_the_owner_s_choice_of_a_settings_file_is_kept(self, tmp_path: Path) -> None:
        text = "VISION_CONFIG=./mine.yaml\n"
        machine = mac(ram_bytes=16 * GIB, variables={"VISION_CONFIG": "./mine.yaml"})
        step = env_of(install(machine, place_in(tmp_path), native=False, env_text=text))
        assert (step.text, step.mode) == (text, 0o600)

    def test_a_note_lists_variables_that_are_only_set_in_the_shell(self, tmp_path: Path) -> None:
        shell = frozenset({"GATEWAY_PORT", "HF_HOME"})
        machine = linux(shell_variables=shell, variables={"HF_HOME": "/x"})
        steps = install(machine, place_in(tmp_path), native=False)
        assert "set GATEWAY_PORT in .env" in words(steps)

    def test_a_native_install_adds_a_service_and_removes_the_container(self, tmp_path: Path) -> None:
        found = commands(install(linux(container=True), place_in(tmp_path), native=True))
        assert "docker compose down" in found
        assert not [c for c in found if "compose up" in c]
        assert "systemctl --user restart vision-insight-gateway" in found

    def test_an_install_with_docker_removes_the_gateway_s_service(self, tmp_path: Path) -> None:
        machine = linux(installed=frozenset({"manager", "gateway"}))
        steps = install(machine, place_in(tmp_path), native=False)
        found = commands(steps)
        assert "systemctl --user disable --quiet --now vision-insight-gateway" in found
        assert [s.path for s in steps if isinstance(s, Remove)] == [SYSTEMD.file("gateway")]
        assert [c for c in found if "compose up -d --build" in c]

    def test_an_older_service_is_stopped_and_moved_before_ours_starts(self, tmp_path: Path) -> None:
        old = "com.vision-insight-api.worker-manager"
        steps = install(mac(older=(f"{old}.plist",)), place_in(tmp_path), native=False)
        found = commands(steps)
        begins = next(i for i, c in enumerate(found) if "bootstrap" in c)
        assert found.index(f"launchctl bootout gui/501/{old}") < begins
        (moved,) = [s for s in steps if isinstance(s, Move)]
        assert moved.path == MAC_PLACE.home / "Library/LaunchAgents" / f"{old}.plist"

    def test_the_gateway_stays_where_it_runs_unless_requested(self) -> None:
        for installed, option, native in NATIVE_OPTIONS:
            assert plans.is_native(linux(installed=installed), option) is native

    def test_on_a_small_mac_the_gateway_is_native_unless_docker_is_in_use_or_requested(self) -> None:
        small = mac(ram_bytes=16 * GIB)
        for machine, option, native in (
            (small, "", True),
            (small, "0", False),
            (
                replace(small, installed=frozenset({"manager"})),
                "",
                False,
            ),  # in Docker, which may not be running
            (replace(small, container=True), "", False),
            (mac(ram_bytes=24 * GIB), "", False),
            (linux(ram_bytes=16 * GIB), "", False),
        ):
            assert plans.is_native(machine, option) is native, (machine, option)

    def test_on_a_small_mac_one_line_explains_the_memory_of_docker(self, tmp_path: Path) -> None:
        place = place_in(tmp_path)
        for native, says in ((True, "NATIVE=0 uses Docker"), (False, "half of it")):
            steps = install(mac(ram_bytes=16 * GIB), place, native=native)
            (line,) = [line for line in words(steps).splitlines() if "16 GB of memory: " in line][:1]
            assert says in line
            assert "Settings > Resources > Memory: 2 GB" in line
        assert "Docker Desktop" not in words(install(mac(), place, native=False))
        assert "Docker Desktop" not in words(install(linux(ram_bytes=GIB), place, native=True))

    def test_the_note_about_an_external_disk_is_first(self) -> None:
        place = Installation(Path("/Volumes/disk/vision"), Path("/Users/ann"), 501, "ann")
        steps = install(mac(), place, native=True, env_text="")
        assert isinstance(steps[0], Say)
        assert "external disk" in steps[0].title


class TestUninstall:
    def test_settings_and_weights_are_kept(self) -> None:
        steps = plans.uninstall_plan(
            linux(installed=frozenset({"manager"})), LINUX_PLACE, SYSTEMD, purge=False
        )
        gone = {s.path for s in steps if isinstance(s, Remove)}
        root = LINUX_PLACE.root
        assert gone == {SYSTEMD.file("manager"), root / ".venv", root / ".python", root / "logs"}
        assert "kept: config.yaml, .env, state/" in words(steps)

    def test_purge_removes_them_and_the_weights_before_the_python_that_finds_them(self) -> None:
        steps = plans.uninstall_plan(linux(has_venv=True), LINUX_PLACE, SYSTEMD, purge=True)
        titles = [s.title for s in steps]
        assert titles.index("remove the weights of the configured models") < titles.index(
            "remove .venv"
        )
        assert {"remove .env", "remove state"} <= set(titles)
        assert not [s for s in steps if isinstance(s, Remove) and s.path.name == "config.yaml"]

    def test_a_note_says_that_a_container_can_not_be_removed_without_docker(self) -> None:
        steps = plans.uninstall_plan(linux(docker="stopped"), LINUX_PLACE, SYSTEMD, purge=False)
        assert "Docker is not running" in words(steps)

    def test_an_interrupted_install_can_be_undone(self) -> None:
        steps = plans.uninstall_plan(linux(docker="absent"), LINUX_PLACE, SYSTEMD, purge=False)
        assert commands(steps) == []


STARTS = [
    (linux(), "up -d --wait"),
    (linux(installed=frozenset({"manager", "gateway"})), "hostctl wait gateway"),
]


CHECKOUTS = [True, False]


class TestOthers:
    def test_stop_and_start_affect_only_the_gateway(self) -> None:
        for machine in (linux(), linux(installed=frozenset({"manager", "gateway"}))):
            for verb in ("start", "stop"):
                command, *waits = commands(plans.gateway_plan(machine, LINUX_PLACE, SYSTEMD, verb))
                assert "manager" not in command
                assert verb in command or "up" in command
                assert all(wait.endswith("hostctl wait gateway") for wait in waits)

    def test_a_start_waits_until_the_gateway_responds(self) -> None:
        for machine, words in STARTS:
            assert words in commands(plans.gateway_plan(machine, LINUX_PLACE, SYSTEMD, "start"))[-1]

    def test_a_restart_writes_the_definitions_again(self) -> None:
        machine = linux(installed=frozenset({"manager"}))
        found = commands(plans.restart_plan(machine, LINUX_PLACE, SYSTEMD))
        assert "hostctl check" in found[0]
        assert "hostctl unit manager --write" in found[1]
        assert any("up -d --force-recreate" in c for c in found)  # needed for changes of .env

    def test_an_upgrade_installs_the_fetched_version(self) -> None:
        for checkout in CHECKOUTS:
            steps = plans.upgrade_plan(LINUX_PLACE, is_checkout=checkout, install=("make", "install"))
            found = commands(steps)
            assert found[-1] == "make install"
            assert ("git pull --ff-only" in found) is checkout

    def test_the_log_command_depends_on_how_the_tier_runs(self, tmp_path: Path) -> None:
        for name in ("vlm-best.log", "vlm-best.log.1", "manager.log", "manager.launchd.log"):
            (tmp_path / name).touch()

        def log(what: str, machine: Machine) -> str:
            return " ".join(plans.log_command(machine, tmp_path, what, follow=True))

        native = linux(installed=frozenset({"gateway"}))
        assert log("gateway", linux(container=True)).startswith("docker compose logs")
        assert log("gateway", native).endswith("-F " + str(tmp_path / "gateway.log"))
        assert log("manager", linux()).endswith(str(tmp_path / "manager.log"))
        assert log("workers", linux()).endswith("-F " + str(tmp_path / "vlm-best.log"))

    def test_the_log_of_a_stack_in_the_foreground_is_found(self, tmp_path: Path) -> None:
        for tier in ("gateway", "manager"):
            assert plans.log_command(linux(), tmp_path, tier, follow=True) == ()
            file = tmp_path / f"{tier}.log"
            file.touch()
            assert plans.log_command(linux(), tmp_path, tier, follow=False)[-1] == str(file)

    def test_the_shell_s_settings_are_used_to_inspect_a_stack_that_is_not_a_service(self) -> None:
        for verb in ("doctor", "status", "smoke", "logs"):
            assert plans.uses_shell_settings(verb, frozenset())
            assert not plans.uses_shell_settings(verb, frozenset({"manager"}))
        assert not any(
            plans.uses_shell_settings(verb, frozenset()) for verb in ("wait", "unit", "check")
        )

    def test_the_list_of_settings_variables_is_complete(self) -> None:
        from contracts.settings.file import ENVIRONMENT

        assert set(ENVIRONMENT) | {"VISION_CONFIG"} == SETTINGS


class TestPerforming:
    def done(self, steps: list[Step], folder: Path, *, dry_run: bool = False) -> list[str]:
        lines: list[str] = []
        environ = {"PATH": "/usr/bin:/bin"}
        perform(
            steps, cwd=folder, environ=environ, dry_run=dry_run, say=lines.append, pause=lambda s: None
        )
        return lines

    def test_a_dry_run_prints_each_step_and_changes_nothing(self, tmp_path: Path) -> None:
        steps: list[Step] = [
            Run("make a mark", ("touch", "mark")),
            Write("write it", tmp_path / "written", "x"),
            Say("a word"),
        ]
        lines = self.done(steps, tmp_path, dry_run=True)
        assert list(tmp_path.iterdir()) == []
        assert lines[0] == "would make a mark:  touch mark"
        assert lines[1].startswith("would write it:  write ")
        assert lines[2] == "a word"

    @pytest.mark.process
    def test_a_failed_step_stops_the_plan_with_its_fix(self, tmp_path: Path) -> None:
        steps: list[Step] = [Run("fail", ("false",), cure="do better"), Run("m", ("touch", "mark"))]
        expected = r"could not fail: `false` exited with status 1; do better"
        with pytest.raises(StepFailed, match=expected):
            self.done(steps, tmp_path)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.process
    def test_after_a_step_that_may_fail_the_plan_continues(self, tmp_path: Path) -> None:
        steps: list[Step] = [Run("try", ("no-such-command",), else_say="it is gone")]
        assert self.done([*steps, Run("m", ("touch", "mark"))], tmp_path) == ["try", "it is gone", "m"]
        assert (tmp_path / "mark").exists()

    @pytest.mark.process
    def test_a_step_with_several_tries_is_retried(self, tmp_path: Path) -> None:
        again = ("sh", "-c", "echo x >>tries; [ $(wc -l <tries) -ge 3 ]")
        self.done([Run("try", again, tries=5)], tmp_path)
        assert (tmp_path / "tries").read_text() == "x\nx\nx\n"

    def test_a_file_is_replaced_atomically_with_its_mode(self, tmp_path: Path) -> None:
        file = tmp_path / "folder" / ".env"
        for text in ("a", "b"):
            self.done([Write("write", file, text, 0o600)], tmp_path)
            assert file.read_text() == text
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(file.parent.iterdir()) == [file]

    def test_nothing_is_removed_through_a_link(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        (precious / "folder").mkdir(parents=True)
        inside = tmp_path / "gone"
        inside.mkdir()
        (inside / "link").symlink_to(precious)
        (tmp_path / "link").symlink_to(precious)
        steps: list[Step] = [Remove("r", inside), Remove("r", tmp_path / "link"), Remove("r", inside)]
        self.done(steps, tmp_path)
        assert (precious / "folder").is_dir()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["precious"]
