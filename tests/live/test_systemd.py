"""Install, crash, restart, reboot, uninstall: under a real systemd, in a folder with odd characters.

One life of one installation, in order; each test continues where the previous one ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from testkit import plain
from testkit.images import RED_CIRCLE, ask
from testkit.servers import free_port
from testkit.stacks import wait_for
from tests.hostctl.session import Session, require_systemd
from tests.hostctl.tree import Tree

pytestmark = pytest.mark.process

MANAGER = "vision-insight-manager"


class Life:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        self.tree = Tree(folder / "vision insight 100%")
        self.session = Session(self.folder)

    def make(self, words: str) -> tuple[int, str]:
        return self.session.run(f"make {words}", self.tree.root)

    def must(self, words: str) -> str:
        status, text = self.make(words)
        assert status == 0, text
        return text

    def url(self, tier: str) -> str:
        return f"http://127.0.0.1:{self.tree.ports[tier]}"

    def get(self, tier: str, path: str, **kwargs: Any) -> Any:
        return plain.get(self.url(tier) + path, timeout=10, **kwargs)

    def up(self, tier: str = "manager") -> bool:
        path = "/health" if tier == "manager" else "/readyz"
        try:
            return bool(self.get(tier, path).status_code == 200)
        except httpx.TransportError:
            return False

    def process(self, module: str) -> psutil.Process:
        (found,) = [p for p in self.tree.processes() if p.cmdline()[1:3] == ["-m", module]]
        return found

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        names = ",".join(properties)
        _, text = self.session.run(f"systemctl --user show {unit} -p {names}")
        return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    require_systemd()
    life = Life(tmp_path_factory.mktemp("live"))
    with life.session:
        yield life
    assert life.tree.processes() == []


def test_a_dry_run_prints_everything_and_changes_nothing(life: Life) -> None:
    before = sorted(p.relative_to(life.tree.root) for p in life.tree.root.glob("*"))
    text = life.must("install NATIVE=1 DRY_RUN=1")
    for word in ("would install the packages", "write .env", "enable-linger", "restart", "wait"):
        assert word in text
    assert sorted(p.relative_to(life.tree.root) for p in life.tree.root.glob("*")) == before
    assert not life.up()


def test_install_starts_both_tiers_and_prints_the_next_steps(life: Life) -> None:
    text = life.must("install NATIVE=1")
    assert life.up("manager")
    assert life.up("gateway")
    assert f"http://localhost:{life.tree.ports['gateway']}" in text
    assert "linger could not be enabled" in text  # there is no logind here, and install says so
    assert "will be whenever you log in" in text
    assert (life.tree.root / ".env").stat().st_mode & 0o777 == 0o600


def test_systemd_gets_the_manager_s_readiness_and_watches_it(life: Life) -> None:
    shown = life.show(MANAGER, "Type", "StatusText", "WatchdogUSec", "MemoryAccounting", "OOMPolicy")
    assert shown == {
        "Type": "notify",
        "StatusText": "serving",
        "WatchdogUSec": "1min",
        "MemoryAccounting": "yes",
        "OOMPolicy": "continue",
    }
    _, text = life.session.run(f"systemd-analyze --user verify {MANAGER}.service")
    assert text == ""


def test_the_services_write_their_own_logs_which_make_shows(life: Life) -> None:
    assert "listening on" in (life.tree.root / "logs" / "manager.log").read_text()
    assert "listening on" in life.must("logs-manager ARGS=--no-follow")
    assert "listening on" in life.must("logs ARGS=--no-follow")
    assert "no worker has written a log" in life.must("logs-workers ARGS=--no-follow")


def test_an_installation_can_be_repeated(life: Life) -> None:
    before = life.process("manager").pid
    life.must("install NATIVE=1")
    assert life.up("gateway")
    assert life.process("manager").pid != before


@pytest.mark.mlx
def test_the_installed_stack_completes_a_chat(life: Life) -> None:
    answer = plain.post(
        f"{life.url('gateway')}/v1/chat/completions",
        json=ask(RED_CIRCLE, "What color is the circle?"),
        timeout=120,
    )
    assert "red" in answer.json()["choices"][0]["message"]["content"].lower()


def test_status_fits_one_screen_and_has_a_json_form(life: Life) -> None:
    text = life.must("status")
    assert "manager   serving" in text
    assert "gateway   serving" in text
    status = json.loads(life.must("status ARGS=--json"))
    assert status["healthy"] is True
    assert set(status["status"]["models"]) == {"vlm-fast", "vlm-best", "image-gen"}


@pytest.mark.mlx
def test_a_killed_manager_is_back_in_seconds_and_its_workers_end(life: Life) -> None:
    assert life.get("manager", "/status").json()["workers"]
    manager = life.process("manager")
    workers = [p for p in life.tree.processes() if "workers" in p.cmdline()]
    assert workers
    manager.kill()
    began = time.monotonic()
    wait_for(lambda: not manager.is_running() and life.up(), 20)
    assert time.monotonic() - began < 15
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() for w in workers)


def test_a_hanging_manager_is_ended_by_the_watchdog(life: Life) -> None:
    # A minute is too long for a test: the same unit with a watchdog of two seconds.
    drop_in = f"$XDG_CONFIG_HOME/systemd/user/{MANAGER}.service.d"
    life.session.run(f'mkdir -p "{drop_in}"; printf "[Service]\\nWatchdogSec=2\\n" >"{drop_in}/w.conf"')
    life.session.run(f"systemctl --user daemon-reload; systemctl --user restart {MANAGER}")
    hung = life.process("manager")
    time.sleep(3)
    assert hung.is_running()  # it notifies the watchdog often enough
    os.kill(hung.pid, signal.SIGSTOP)
    wait_for(lambda: not hung.is_running() and life.up(), 30)
    life.session.run(f'rm -r "{drop_in}"; systemctl --user daemon-reload')


def test_stop_and_start_act_on_the_gateway_alone(life: Life) -> None:
    life.must("stop")
    assert not life.up("gateway")
    assert life.up("manager")
    assert life.make("status")[0] != 0
    life.must("start")
    wait_for(lambda: life.up("gateway"))


@pytest.mark.mlx
def test_env_takes_effect_after_a_restart(life: Life) -> None:
    hub = life.folder / "models elsewhere"
    life.tree.ports |= {"manager": free_port(), "gateway": free_port()}
    life.tree.set(
        IDLE_TIMEOUT="77",
        MANAGER_PORT=str(life.tree.ports["manager"]),
        GATEWAY_PORT=str(life.tree.ports["gateway"]),
        GATEWAY_API_KEY="a-long-random-key",
        HF_HOME=str(hub),
    )
    life.must("restart")
    assert life.get("manager", "/status").json()["config"]["idle_timeout_seconds"] == 77
    assert life.up("gateway")  # on its new port, and it finds the manager on the manager's
    assert life.get("gateway", "/v1/models").status_code == 401
    key = {"authorization": "Bearer a-long-random-key"}
    assert life.get("gateway", "/v1/models", headers=key).status_code == 200
    plain.post(f"{life.url('manager')}/spawn/vlm-best", timeout=120).raise_for_status()
    pid = life.get("manager", "/status").json()["workers"]["vlm-best"]["pid"]
    environ = worker_environ(life, pid)
    assert environ["HF_HOME"] == str(hub)
    assert "GATEWAY_API_KEY" not in environ
    assert "NOTIFY_SOCKET" not in environ


def worker_environ(life: Life, pid: int) -> dict[str, str]:
    """The environment of the process *pid* inside the session."""
    _, text = life.session.run(f"tr '\\0' '\\n' </proc/{pid}/environ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@pytest.mark.mlx
def test_the_smoke_test_calls_every_endpoint(life: Life) -> None:
    status, text = life.session.run("./scripts/test-local.sh", life.tree.root)
    assert status == 0, text
    assert "18 of 18 ok" in text


def test_the_doctor_finds_no_fault(life: Life) -> None:
    text = life.must("doctor")
    assert "0 broken" in text


def test_the_doctor_finds_a_taken_port(life: Life) -> None:
    assert life.session.run(f"systemctl --user stop {MANAGER}")[0] == 0
    port = life.tree.ports["manager"]
    with socket.create_server(("127.0.0.1", port)):
        status, text = life.make("doctor")
        assert status != 0
        assert f"{port}, which manager needs, is taken by" in text
        status, text = life.make("install NATIVE=1")
        assert status != 0
        assert "nothing was changed" in text
    life.must("restart")
    assert life.up("gateway")


def test_broken_settings_are_reported_and_leave_the_running_stack_alone(life: Life) -> None:
    config = life.tree.root / "config.yaml"
    small = life.tree.root / "config.16gb.yaml"
    texts = {file: file.read_text() for file in (config, small)}
    for file, text in texts.items():
        file.write_text(text + "nonsense: 1\n")
    status, output = life.make("restart")
    assert status != 0
    assert "nonsense: is not a key that there is" in output
    assert life.up("gateway")
    assert "nonsense" in life.make("doctor")[1]
    for file, text in texts.items():
        file.write_text(text)


def test_the_stack_is_back_after_a_power_cut(life: Life) -> None:
    life.session.cut_power()
    assert wait_for(lambda: not life.tree.processes())
    with Session(life.folder) as session:
        life.session = session
        wait_for(lambda: life.up("manager") and life.up("gateway"), 60)
        stopping(life)
        uninstalling(life)


def stopping(life: Life) -> None:
    """Stopping the service drains, and leaves no process."""
    before = [p for p in life.tree.processes() if "gateway" not in p.cmdline()]
    assert life.session.run(f"systemctl --user stop {MANAGER}")[0] == 0
    assert not any(p.is_running() for p in before)
    assert life.show(MANAGER, "Result") == {"Result": "success"}
    life.must("restart")


def uninstalling(life: Life) -> None:
    text = life.must("uninstall")
    assert "kept: config.yaml, .env" in text
    assert life.tree.processes() == []
    assert not list((life.folder / "config home" / "systemd" / "user").rglob("*.service"))
    left = {p.name for p in life.tree.root.iterdir()}
    assert not left & {".venv", "logs"}
    assert {".env", "config.yaml"} <= left
    life.must("uninstall PURGE=1")  # a second one does no harm
    assert not (life.tree.root / ".env").exists()
    assert (Path(os.__file__).parent / "os.py").exists()  # nothing was removed through a link
