"""What install, uninstall and the rest do, as plans: for any machine, without touching one."""

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


class TestInstall:
    def test_packages_come_first_and_the_services_only_when_the_settings_are_right(
        self, tmp_path: Path
    ) -> None:
        told = commands(install(linux(), place_in(tmp_path), native=False))
        order = [
            "setup.py host",
            "hostctl check",
            "hostctl unit manager",
            "restart",
            "compose up",
            "wait",
        ]
        places = [next(i for i, c in enumerate(told) if word in c) for word in order]
        assert places == sorted(places)

    @pytest.mark.parametrize("machine", [mac(ram_bytes=16 * GIB), linux(ram_bytes=16 * GIB)])
    def test_a_small_machine_gets_the_small_models_and_is_told_so(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        steps = install(machine, place_in(tmp_path), native=False)
        assert parse(env_of(steps).text)["VISION_CONFIG"] == "./config.16gb.yaml"
        assert "16 GB of memory: ./config.16gb.yaml" in words(steps)

    def test_a_large_machine_gets_the_large_ones(self, tmp_path: Path) -> None:
        assert parse(env_of(install(mac(), place_in(tmp_path), native=False)).text) == {}

    def test_settings_that_the_owner_has_chosen_stay(self, tmp_path: Path) -> None:
        text = "VISION_CONFIG=./mine.yaml\n"
        machine = mac(ram_bytes=16 * GIB, variables={"VISION_CONFIG": "./mine.yaml"})
        step = env_of(install(machine, place_in(tmp_path), native=False, env_text=text))
        assert (step.text, step.mode) == (text, 0o600)

    def test_a_variable_that_only_the_shell_has_is_told_to_be_lost(self, tmp_path: Path) -> None:
        shell = frozenset({"GATEWAY_PORT", "HF_HOME"})
        machine = linux(shell_variables=shell, variables={"HF_HOME": "/x"})
        steps = install(machine, place_in(tmp_path), native=False)
        assert "write GATEWAY_PORT into .env" in words(steps)

    def test_native_is_a_second_service_and_takes_the_container_away(self, tmp_path: Path) -> None:
        told = commands(install(linux(container=True), place_in(tmp_path), native=True))
        assert "docker compose down" in told
        assert not [c for c in told if "compose up" in c]
        assert "systemctl --user restart vision-insight-gateway" in told

    def test_docker_takes_the_second_service_away(self, tmp_path: Path) -> None:
        machine = linux(installed=frozenset({"manager", "gateway"}))
        steps = install(machine, place_in(tmp_path), native=False)
        told = commands(steps)
        assert "systemctl --user disable --quiet --now vision-insight-gateway" in told
        assert [s.path for s in steps if isinstance(s, Remove)] == [SYSTEMD.file("gateway")]
        assert [c for c in told if "compose up -d --build" in c]

    def test_an_older_service_is_ended_and_put_aside_before_ours_starts(self, tmp_path: Path) -> None:
        old = "com.vision-insight-api.worker-manager"
        steps = install(mac(older=(f"{old}.plist",)), place_in(tmp_path), native=False)
        told = commands(steps)
        begins = next(i for i, c in enumerate(told) if "bootstrap" in c)
        assert told.index(f"launchctl bootout gui/501/{old}") < begins
        (moved,) = [s for s in steps if isinstance(s, Move)]
        assert moved.path == MAC_PLACE.home / "Library/LaunchAgents" / f"{old}.plist"

    @pytest.mark.parametrize(
        ("installed", "wish", "native"),
        [
            (frozenset(), "", False),
            (frozenset(), "1", True),
            (frozenset({"gateway"}), "", True),  # as it is
            (frozenset({"gateway"}), "0", False),
            (frozenset({"gateway"}), "no", False),
        ],
    )
    def test_where_the_gateway_runs_is_kept_unless_asked_for(
        self, installed: frozenset[str], wish: str, native: bool
    ) -> None:
        assert plans.is_native(linux(installed=installed), wish) is native

    def test_on_a_small_mac_the_gateway_runs_without_docker_unless_it_already_does_or_shall(
        self,
    ) -> None:
        small = mac(ram_bytes=16 * GIB)
        for machine, wish, native in (
            (small, "", True),
            (small, "0", False),
            (
                replace(small, installed=frozenset({"manager"})),
                "",
                False,
            ),  # in Docker; that may be down
            (replace(small, container=True), "", False),
            (mac(ram_bytes=24 * GIB), "", False),
            (linux(ram_bytes=16 * GIB), "", False),
        ):
            assert plans.is_native(machine, wish) is native, (machine, wish)

    def test_a_small_mac_is_told_in_one_line_what_docker_would_take(self, tmp_path: Path) -> None:
        place = place_in(tmp_path)
        for native, says in ((True, "NATIVE=0 uses Docker"), (False, "half of it")):
            steps = install(mac(ram_bytes=16 * GIB), place, native=native)
            (line,) = [line for line in words(steps).splitlines() if "16 GB of memory: " in line][:1]
            assert says in line
            assert "Settings > Resources > Memory: 2 GB" in line
        assert "Docker Desktop" not in words(install(mac(), place, native=False))
        assert "Docker Desktop" not in words(install(linux(ram_bytes=GIB), place, native=True))

    def test_an_external_disk_is_told_before_anything_is_done(self) -> None:
        place = Installation(Path("/Volumes/disk/vision"), Path("/Users/ann"), 501, "ann")
        steps = install(mac(), place, native=True, env_text="")
        assert isinstance(steps[0], Say)
        assert "external disk" in steps[0].title


class TestUninstall:
    def test_settings_and_weights_stay(self) -> None:
        steps = plans.uninstall_plan(
            linux(installed=frozenset({"manager"})), LINUX_PLACE, SYSTEMD, purge=False
        )
        gone = {s.path for s in steps if isinstance(s, Remove)}
        root = LINUX_PLACE.root
        assert gone == {SYSTEMD.file("manager"), root / ".venv", root / ".python", root / "logs"}
        assert "kept: config.yaml, .env, state/" in words(steps)

    def test_purge_takes_them_too_and_weights_before_the_python_that_finds_them(self) -> None:
        steps = plans.uninstall_plan(linux(has_venv=True), LINUX_PLACE, SYSTEMD, purge=True)
        titles = [s.title for s in steps]
        assert titles.index("remove the weights of the configured models") < titles.index(
            "remove .venv"
        )
        assert {"remove .env", "remove state"} <= set(titles)
        assert not [s for s in steps if isinstance(s, Remove) and s.path.name == "config.yaml"]

    def test_a_container_that_can_not_be_removed_now_is_told(self) -> None:
        steps = plans.uninstall_plan(linux(docker="stopped"), LINUX_PLACE, SYSTEMD, purge=False)
        assert "a container stays until" in words(steps)

    def test_an_interrupted_install_can_be_undone(self) -> None:
        steps = plans.uninstall_plan(linux(docker="absent"), LINUX_PLACE, SYSTEMD, purge=False)
        assert commands(steps) == []


class TestOthers:
    def test_stop_and_start_touch_the_gateway_alone(self) -> None:
        for machine in (linux(), linux(installed=frozenset({"manager", "gateway"}))):
            for verb in ("start", "stop"):
                told, *waits = commands(plans.gateway_plan(machine, LINUX_PLACE, SYSTEMD, verb))
                assert "manager" not in told
                assert verb in told or "up" in told
                assert all(wait.endswith("hostctl wait gateway") for wait in waits)

    @pytest.mark.parametrize(
        ("machine", "words"),
        [
            (linux(), "up -d --wait"),
            (linux(installed=frozenset({"manager", "gateway"})), "hostctl wait gateway"),
        ],
        ids=["docker", "native"],
    )
    def test_a_start_waits_until_the_gateway_answers(self, machine: Machine, words: str) -> None:
        assert words in commands(plans.gateway_plan(machine, LINUX_PLACE, SYSTEMD, "start"))[-1]

    def test_a_restart_renders_the_definitions_again(self) -> None:
        machine = linux(installed=frozenset({"manager"}))
        told = commands(plans.restart_plan(machine, LINUX_PLACE, SYSTEMD))
        assert "hostctl check" in told[0]
        assert "hostctl unit manager --write" in told[1]
        assert any("up -d --force-recreate" in c for c in told)  # or .env would not reach it

    @pytest.mark.parametrize("checkout", [True, False])
    def test_an_upgrade_installs_what_it_fetched(self, checkout: bool) -> None:
        steps = plans.upgrade_plan(LINUX_PLACE, is_checkout=checkout, install=("make", "install"))
        told = commands(steps)
        assert told[-1] == "make install"
        assert ("git pull --ff-only" in told) is checkout

    def test_logs_are_those_of_where_it_runs(self, tmp_path: Path) -> None:
        for name in ("vlm-best.log", "vlm-best.log.1", "manager.log", "manager.launchd.log"):
            (tmp_path / name).touch()

        def log(what: str, machine: Machine) -> str:
            return " ".join(plans.log_command(machine, tmp_path, what, follow=True))

        native = linux(installed=frozenset({"gateway"}))
        assert log("gateway", linux(container=True)).startswith("docker compose logs")
        assert log("gateway", native).endswith("-F " + str(tmp_path / "gateway.log"))
        assert log("manager", linux()).endswith(str(tmp_path / "manager.log"))
        assert log("workers", linux()).endswith("-F " + str(tmp_path / "vlm-best.log"))

    @pytest.mark.parametrize("tier", ["gateway", "manager"])
    def test_the_log_of_a_stack_in_the_foreground_is_shown_when_there_is_one(
        self, tier: str, tmp_path: Path
    ) -> None:
        assert plans.log_command(linux(), tmp_path, tier, follow=True) == ()
        file = tmp_path / f"{tier}.log"
        file.touch()
        assert plans.log_command(linux(), tmp_path, tier, follow=False)[-1] == str(file)

    def test_a_shell_s_settings_count_where_one_looks_at_a_stack_that_is_no_service(self) -> None:
        for verb in ("doctor", "status", "smoke", "logs"):
            assert plans.shell_counts(verb, frozenset())
            assert not plans.shell_counts(verb, frozenset({"manager"}))
        assert not any(plans.shell_counts(verb, frozenset()) for verb in ("wait", "unit", "check"))

    def test_the_settings_that_a_shell_may_hold_are_those_of_the_services(self) -> None:
        from contracts.settings.file import ENVIRONMENT

        assert set(ENVIRONMENT) | {"VISION_CONFIG"} == SETTINGS


class TestPerforming:
    def done(self, steps: list[Step], folder: Path, *, dry_run: bool = False) -> list[str]:
        said: list[str] = []
        environ = {"PATH": "/usr/bin:/bin"}
        perform(
            steps, cwd=folder, environ=environ, dry_run=dry_run, say=said.append, pause=lambda s: None
        )
        return said

    def test_a_dry_run_tells_each_step_and_does_none(self, tmp_path: Path) -> None:
        steps: list[Step] = [
            Run("make a mark", ("touch", "mark")),
            Write("write it", tmp_path / "written", "x"),
            Say("a word"),
        ]
        said = self.done(steps, tmp_path, dry_run=True)
        assert list(tmp_path.iterdir()) == []
        assert said[0] == "would make a mark:  touch mark"
        assert said[1].startswith("would write it:  write ")
        assert said[2] == "a word"

    @pytest.mark.process
    def test_a_step_that_fails_stops_the_rest_with_its_cure(self, tmp_path: Path) -> None:
        steps: list[Step] = [Run("fail", ("false",), cure="do better"), Run("m", ("touch", "mark"))]
        with pytest.raises(StepFailed, match=r"could not fail: `false` ended with status 1; do better"):
            self.done(steps, tmp_path)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.process
    def test_one_that_may_fail_says_so_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        steps: list[Step] = [Run("try", ("no-such-command",), else_say="it is gone")]
        assert self.done([*steps, Run("m", ("touch", "mark"))], tmp_path) == ["try", "it is gone", "m"]
        assert (tmp_path / "mark").exists()

    @pytest.mark.process
    def test_what_takes_time_is_tried_again(self, tmp_path: Path) -> None:
        again = ("sh", "-c", "echo x >>tries; [ $(wc -l <tries) -ge 3 ]")
        self.done([Run("try", again, tries=5)], tmp_path)
        assert (tmp_path / "tries").read_text() == "x\nx\nx\n"

    def test_a_file_is_replaced_as_a_whole_with_its_mode(self, tmp_path: Path) -> None:
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
