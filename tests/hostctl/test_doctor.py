"""The doctor finds each problem, and prints its fix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.control import ConfigStatus, ManagerStatus, MemoryStatus, ModelStatus, WorkerState
from contracts.settings import MemorySettings, Settings
from contracts.settings.base import GIB
from contracts.settings.file import load
from hostctl import facts as reading
from hostctl.doctor import findings
from hostctl.facts import Facts, ModelFiles, _hub, _hub_state
from hostctl.firewall import Firewall
from hostctl.local_stack import ROOT
from hostctl.machine import TakenPort
from hostctl.reboot import Job, Outlook
from hostctl.services import Installation
from hostctl.systemd import Systemd
from hostctl.weights import hub_folder, purge_steps
from manager.ceiling import LIMIT_FILE, Bound, Budget
from manager.ceiling import Mac as CeilingMac
from testkit.hub_server import hub as hub_server
from tests.hostctl.machines import linux, mac

SETTINGS = load(ROOT / "config.yaml", {})


def status(**model: Any) -> dict[str, Any]:
    found = ModelStatus(
        path="p", kind="vlm", port=8001, **{"memory_gb": 1.0, "status": WorkerState.READY, **model}
    )
    memory = MemoryStatus(
        total_gb=32, available_gb=20, used_gb=12, used_percent=37, usage_percent=37,
        budget_gb=23, models_loaded_gb=1,
    )  # fmt: skip
    config = ConfigStatus(idle_timeout_seconds=300, max_requests_before_restart=0, safety_margin_gb=1)
    return ManagerStatus(
        status="ok",
        uptime_seconds=9,
        workers={},
        models={"vlm-fast": found},
        memory=memory,
        config=config,
    ).model_dump(mode="json")


NODE = TakenPort(8100, "manager", "node (pid 7)")
BOTH = frozenset({"manager"})
GOOD = Facts(
    linux(installed=BOTH, running=BOTH, container=True),
    native=False,
    env_mode=0o600,
    settings=SETTINGS,
    manager_status=200,
    status=status(),
    gateway_health="ok",
    key_status=200,
    control_status=200,
    weights=(ModelFiles("vlm-fast", "vikhyatk/moondream2", "there"),),
)
AT_LOGIN = Outlook(mac=True)
HELD_BACK = Job(
    "com.x.manager", "not running", pended="inefficient", wake="launchctl kickstart gui/501/x"
)
MAC = replace(GOOD, outlook=AT_LOGIN, machine=mac(installed=BOTH, running=BOTH, container=True))


def without_gateway(**machine: Any) -> Facts:
    return replace(
        GOOD, machine=linux(installed=BOTH, running=BOTH, **machine), gateway_health="", key_status=0
    )


def at_login(**outlook: Any) -> Facts:
    return replace(MAC, outlook=replace(AT_LOGIN, **outlook))


# facts -> level, topic, words of the problem, words of the fix
BROKEN: dict[str, tuple[Facts, str, str, str, str]] = {
    "settings invalid": (
        replace(GOOD, settings=None, settings_error="config.yaml:3: nonsense"),
        "broken", "settings", "config.yaml:3", "make restart",
    ),
    "settings changed": (
        replace(GOOD, changed_after_start=True), "warning", "settings", "changed after", "make restart",
    ),
    ".env is public": (
        replace(GOOD, env_mode=0o644), "warning", "env", "readable by others", "chmod 600",
    ),
    "not installed": (
        replace(GOOD, machine=linux(container=True), manager_status=0),
        "broken", "service", "not installed", "make install",
    ),
    "not loaded": (
        replace(GOOD, machine=linux(installed=BOTH, container=True), manager_status=0),
        "broken", "service", "not loaded", "make logs-manager",
    ),
    "an older service": (
        replace(GOOD, machine=replace(GOOD.machine, older=("old.plist",))),
        "broken", "service", "old.plist", "make install",
    ),
    "port taken": (
        replace(GOOD, machine=replace(GOOD.machine, taken=(NODE,))),
        "broken", "ports", "port 8100 of manager is in use by node (pid 7)", "MANAGER_PORT",
    ),
    "docker down": (
        without_gateway(docker="stopped"), "broken", "docker", "engine is not running", "start docker",
    ),
    "settings that the container can't read": (
        without_gateway(container=True, restarts=3, private=frozenset({"config.yaml"})),
        "broken", "docker", "config.yaml is readable by its owner only", "chmod 644 config.yaml",
    ),
    "the container restarts": (
        without_gateway(container=True, restarts=3),
        "broken", "docker", "keeps exiting (3 restarts)", "make logs",
    ),
    "no container": (without_gateway(), "broken", "docker", "no gateway container", "make start"),
    "container can't reach the manager": (
        replace(GOOD, gateway_health="degraded"),
        "broken", "gateway", "can't reach the manager from its container", "docker_bridge",
    ),
    "gateway down": (without_gateway(), "broken", "gateway", "does not respond", "make start"),
    "key": (replace(GOOD, key_status=401), "broken", "keys", "GATEWAY_API_KEY", "make restart"),
    "token": (replace(GOOD, manager_status=401), "broken", "keys", "MANAGER_TOKEN", "make restart"),
    "two tokens": (replace(GOOD, control_status=401), "broken", "keys", "different", "make restart"),
    "low memory": (
        replace(GOOD, machine=replace(GOOD.machine, ram_bytes=8 * GIB)),
        "warning", "memory", "the budget of 5.0 GB (75 % of the machine", "config.16gb.yaml",
    ),
    "a Mac's GPU limit": (
        replace(MAC, gpu_limit=Bound(6 * GIB, "GPU limit: reported by Metal")),
        "warning", "memory", "the budget of 6.0 GB (GPU limit: reported by Metal)", "smaller model",
    ),
    "pressure": (
        replace(GOOD, status={**status(), "memory": {"pressure": "critical"}}),
        "warning", "memory", "critical", "safety_margin_gb",
    ),
    "swapping": (replace(GOOD, swap_percent=80), "warning", "memory", "80 %", "safety_margin_gb"),
    "a Mac that swaps": (
        replace(MAC, swap_used=3 * GIB), "warning", "memory", "3.0 GB are swapped", "safety_margin_gb",
    ),
    "a Mac's agent is off": (
        replace(MAC, machine=mac(installed=BOTH, container=True), manager_status=0),
        "broken", "service", "not loaded", "Login Items & Extensions",
    ),
    "a Mac's firewall asks": (
        replace(MAC, native=True, firewall=Firewall(1, "/opt/py thon")),
        "warning", "network", "not permitted yet", "--unblockapp '/opt/py thon'",
    ),
    "a Mac's firewall blocks all": (
        replace(MAC, native=True, firewall=Firewall(2, "/opt/python", permitted=True)),
        "warning", "network", "only this Mac", "--setblockall off",
    ),
    "folder missing": (
        replace(GOOD, weights=(ModelFiles("a", "/nowhere", "no-folder"),)),
        "broken", "models", "/nowhere is not a folder", "models.a.path",
    ),
    "half downloaded": (
        replace(GOOD, weights=(ModelFiles("a", "x/y", "partial"),)),
        "warning", "models", "partly downloaded", "make pull MODEL=a",
    ),
    "not downloaded": (
        replace(GOOD, weights=(ModelFiles("a", "x/y", "absent"),)),
        "warning", "models", "not downloaded", "make pull MODEL=a",
    ),
    "load failed": (
        replace(GOOD, status=status(status=WorkerState.FAILED, last_error="no weights")),
        "broken", "models", "no weights", "make logs-workers",
    ),
    "full disk": (
        replace(GOOD, machine=replace(GOOD.machine, disk_free=2 * GIB)),
        "warning", "disk", "2.0 GB are free", "HF_HOME",
    ),
    "no linger": (
        replace(GOOD, outlook=Outlook(linger=False)), "warning", "reboot", "logged in", "enable-linger",
    ),
    "no auto-login": (
        at_login(auto_login=False), "warning", "reboot", "logged in", "System Settings",
    ),
    "a Mac that sleeps": (
        at_login(sleeps=True), "warning", "reboot", "sleep", "pmset",
    ),
    "FileVault": (
        at_login(filevault=True),
        "warning", "reboot", "disables automatic login", "make install BOOT=1",
    ),
    "held back": (
        at_login(jobs=(HELD_BACK,)),
        "broken", "service", "pended nondemand spawn", "launchctl kickstart",
    ),
    "docker not at login": (
        at_login(docker_at_login=False), "warning", "reboot", "Docker Desktop", "Settings",
    ),
    "not on the hub": (
        replace(GOOD, hub={"x/y": "is gated"}), "broken", "hub", "x/y is gated", "HF_TOKEN",
    ),
}  # fmt: skip


HEALTHY = [GOOD, MAC]


def test_a_healthy_stack_has_only_ok_findings() -> None:
    for facts in HEALTHY:
        assert {f.level for f in findings(facts)} == {"ok"}


def test_each_problem_is_found_with_its_fix() -> None:
    for name, (facts, level, topic, what, cure) in BROKEN.items():
        found = [f for f in findings(facts) if f.level != "ok"]
        assert all(f.cure for f in found), name
        assert any(
            (f.level, f.topic) == (level, topic) and what in f.what and cure in f.cure for f in found
        ), (name, found)


def test_the_budget_includes_the_gpu_limit_that_the_manager_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac = CeilingMac(16 * GIB, (15,))
    monkeypatch.setattr(reading, "mac_of", lambda memory: mac)
    manager = SETTINGS.manager.model_copy(update={"state_dir": str(tmp_path)})
    settings = SETTINGS.model_copy(update={"manager": manager})
    rule = reading._gpu_limit(settings, 16 * GIB)
    assert rule is not None
    assert "67 % of 16 GB on macOS 15" in rule.why
    budget = Budget(MemorySettings(), 16 * GIB, mac, tmp_path / LIMIT_FILE)
    budget.update(9 * GIB)
    budget.save()
    stored = Bound(9 * GIB, "GPU limit: reported by Metal")
    assert reading._gpu_limit(settings, 16 * GIB) == stored
    monkeypatch.setattr(reading, "mac_of", lambda memory: None)
    assert reading._gpu_limit(settings, 16 * GIB) is None


def test_on_a_mac_the_percentage_of_used_swap_is_ignored() -> None:
    # macOS grows its swap files as needed, so most of the swap space is always in use.
    facts = replace(MAC, swap_percent=97, swap_used=GIB)
    assert not [f for f in findings(facts) if f.level != "ok"]


def test_a_firewall_is_ignored_if_it_does_not_affect_the_gateway() -> None:
    asks = Firewall(1, "/opt/python")
    local = SETTINGS.gateway.model_copy(update={"host": "127.0.0.1"})
    for facts in (
        replace(MAC, native=False, firewall=asks),  # Docker's backend is signed
        replace(MAC, native=True, firewall=Firewall(1, "/opt/python", permitted=True)),
        replace(MAC, native=True, firewall=Firewall()),
        replace(
            MAC,
            native=True,
            firewall=asks,
            settings=SETTINGS.model_copy(update={"gateway": local}),
        ),
    ):
        assert not [f for f in findings(facts) if f.topic == "network" and f.level != "ok"]


DOCKER_STATES = ["running", "stopped", "absent"]


def test_if_nothing_is_installed_the_only_fix_is_to_install() -> None:
    for docker in DOCKER_STATES:
        machine = linux(docker=docker, taken=(NODE,))
        facts = replace(GOOD, machine=machine, manager_status=0, gateway_health="", status={})
        cures = [f.cure for f in findings(facts) if f.level == "broken"]
        assert all("make install" in cure for cure in cures)
        assert not [c for c in cures if "make start" in c or "make logs" in c or "make restart" in c]


def test_restarts_of_a_working_container_are_ignored() -> None:
    facts = replace(GOOD, machine=replace(GOOD.machine, restarts=1))
    assert {f.level for f in findings(facts)} == {"ok"}


def test_a_stack_in_the_foreground_is_not_a_problem() -> None:
    taken = (TakenPort(8100, "manager", "python (pid 7)"),)
    facts = replace(GOOD, machine=linux(taken=taken), native=True)
    assert not [f for f in findings(facts) if f.level == "broken"]


def test_the_cache_shows_whether_weights_are_complete_partial_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "models--x--y"
    assert _hub_state(tmp_path, "x/y") == "absent"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "blobs" / "b.incomplete").touch()
    assert _hub_state(tmp_path, "x/y") == "partial"
    (folder / "blobs" / "b.incomplete").unlink()
    assert _hub_state(tmp_path, "x/y") == "partial"  # no weights in it yet
    (folder / "snapshots" / "c0ffee" / "m.safetensors").symlink_to(folder / "blobs" / "b")
    assert _hub_state(tmp_path, "x/y") == "partial"
    (folder / "blobs" / "b").touch()
    assert _hub_state(tmp_path, "x/y") == "there"


def test_the_variables_of_hugging_face_set_the_cache_folder(tmp_path: Path) -> None:
    assert hub_folder({"HF_HOME": "/a"}) == Path("/a/hub")
    assert hub_folder({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}) == Path("/b")
    assert hub_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")


def test_only_the_weights_of_configured_models_are_purged(tmp_path: Path) -> None:
    ours = "models--vikhyatk--moondream2"
    for name in (ours, "models--somebody--else", "datasets--x--y"):
        (tmp_path / name).mkdir()
    assert [s.path.name for s in purge_steps(SETTINGS, tmp_path) if hasattr(s, "path")] == [ours]


def settings_of(paths: list[str]) -> Settings:
    models = {
        alias: model.model_copy(update={"path": path})
        for (alias, model), path in zip(SETTINGS.models.items(), paths, strict=False)
    }
    return SETTINGS.model_copy(update={"models": models})


def test_online_checks_every_repository_and_moondream_s_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    repositories = {"vikhyatk/moondream2": tmp_path, reading.MOONDREAM_TOKENIZER: tmp_path}
    with hub_server(repositories) as hub:
        found = _hub(settings_of(["vikhyatk/moondream2", "x/absent"]), {"HF_ENDPOINT": hub.url})
    assert found == {
        "vikhyatk/moondream2": "",
        reading.MOONDREAM_TOKENIZER: "",
        "x/absent": "does not exist on the Hub, or is private",
    }
    gone = _hub(settings_of(["vikhyatk/moondream2"]), {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert all("can't be checked" in wrong for wrong in gone.values())


@pytest.mark.process
def test_with_invalid_settings_only_these_are_reported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("nonsense: 1\n")
    (tmp_path / ".env").write_text("A=1\n")
    (tmp_path / ".env").chmod(0o644)
    place = Installation(tmp_path, tmp_path, 1000, "ann")
    facts = reading.read(
        place, Systemd(place, tmp_path), {"PATH": "/nowhere"}, "", shell={}, online=False
    )
    assert "nonsense" in facts.settings_error
    assert facts.env_mode == 0o644
