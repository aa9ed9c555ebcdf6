"""The gateway as a process on all addresses: both families, one set of rules for its clients."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hostctl.local_stack import ROOT
from testkit import plain
from testkit.servers import free_port
from tests.gateway.conftest import CONFIG
from tests.manager.conftest import eventually
from web.ports import LOOPBACK, authority

SETTINGS = "gateway: {rate_limit: {requests_per_minute: 2, burst: 2}, cors_origins: ['http://page']}\n"


@pytest.mark.process
def test_a_gateway_on_all_addresses_applies_its_rules_to_ipv4_and_ipv6_clients(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + SETTINGS)
    port = free_port()
    environ = {"GATEWAY_PORT": str(port), "WORKER_MANAGER_PORT": str(free_port())}
    command = [sys.executable, "-m", "gateway", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            urls = [f"http://{authority(address, port)}" for address in LOOPBACK]
            eventually(lambda: answers(urls[0]), timeout_s=20)
            for url in urls:
                assert plain.get(f"{url}/healthz").status_code == 200
                own = {"origin": url}
                assert plain.get(f"{url}/healthz", headers=own).status_code == 200
                foreign = {"origin": "http://stranger.example"}
                assert plain.get(f"{url}/healthz", headers=foreign).status_code == 403
                wrong_name = {"host": "stranger.example"}
                assert plain.get(f"{url}/healthz", headers=wrong_name).status_code == 403
                # A share for each client: nothing of it was used by the other family.
                statuses = [plain.get(f"{url}/v1/models").status_code for _ in range(3)]
                assert statuses == [200, 200, 429]
        finally:
            process.terminate()
            _, log = process.communicate(timeout=30)
    assert f"listening on http://0.0.0.0:{port}, http://[::]:{port}" in log
    assert not re.search(r"::ffff:", log)


def answers(url: str) -> bool:
    try:
        return bool(plain.get(f"{url}/healthz").status_code == 200)
    except httpx.TransportError:
        return False
