"""Hosts without a route: on macOS the error names the privacy setting that may cause it.

The error comes from a real kernel, in a network namespace with an ``unreachable`` route; macOS is a
parameter.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import ManagerUnreachable
from gateway import local_network
from gateway.manager_client import manager_unreachable
from hostctl.local_stack import ROOT
from testkit.needs import lacking
from tests.gateway.conftest import make_settings

# The first address is allowed and has no route; the second one is not allowed.
PROGRAM = """
import asyncio, json, pathlib, sys
import uvloop
from contracts.errors import InvalidRequest
from gateway.checks import check_chat
from gateway.images_in.fetching import Fetcher
from gateway.manager_client import ManagerClient
from tests.gateway.conftest import make_settings
from web.relay import UpstreamUnreachable, open_session, send_upstream
from gateway.manager_client import manager_unreachable

folder, platform = pathlib.Path(sys.argv[1]), sys.argv[2]
extra = "gateway: {manager_host: 10.9.9.7}\\nimages: {fetch_allow: [10.9.9.0/24]}\\n"
settings = make_settings(folder, "http://x:8100", extra)

async def main():
    messages = {}
    fetcher = Fetcher(settings, platform=platform)
    for host in ("10.9.9.1", "10.8.8.1"):
        part = {"type": "image_url", "image_url": {"url": f"http://{host}/x.png"}}
        body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
        try:
            await fetcher.fetch_all(check_chat(settings, body))
        except InvalidRequest as exc:
            messages[host] = exc.message
    session = open_session()
    try:
        await send_upstream(session, "POST", settings.manager_url, [])
    except UpstreamUnreachable as exc:
        messages["relay"] = manager_unreachable(settings, exc, platform).message
    try:
        await ManagerClient(settings).status()
    except Exception as exc:
        messages["control"] = manager_unreachable(settings, exc, platform).message
    await session.close()
    await fetcher.close()
    print(json.dumps(messages))

uvloop.run(main())
"""
NAMED = "System Settings > Privacy & Security > Local Network"


def messages(folder: Path, platform: str) -> dict[str, str]:
    route = (
        "ip link set lo up && ip route add unreachable 10.9.9.0/24 && ip addr add 10.9.8.1/32 dev lo"
    )
    command = ["unshare", "--net", "sh", "-c", f'{route} && exec "$@"', "sh"]
    command += [sys.executable, "-c", PROGRAM, str(folder), platform]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.process
def test_a_host_without_a_route_names_local_network_privacy_on_macos_alone(tmp_path: Path) -> None:
    if os.geteuid() or not (shutil.which("ip") and shutil.which("unshare")):
        lacking("network namespaces: root, ip and unshare")
    mac = messages(tmp_path, "darwin")
    assert set(mac) == {"10.9.9.1", "10.8.8.1", "relay", "control"}
    for who in ("10.9.9.1", "relay", "control"):
        assert NAMED in mac[who], who
        assert "Docker" in mac[who]
    assert NAMED not in mac["10.8.8.1"]  # refused by the settings
    assert not [text for text in messages(tmp_path, "linux").values() if NAMED in text]


def test_the_cause_is_found_behind_the_errors_of_libraries() -> None:
    def raised(cause: BaseException) -> BaseException:
        try:
            raise ConnectionError("no connection") from cause
        except ConnectionError as exc:
            return exc

    no_route: Any = OSError(errno.EHOSTUNREACH, "No route to host")
    refused = OSError(errno.ECONNREFUSED, "refused")
    for exc in (no_route, raised(no_route), raised(ExceptionGroup("all", [refused, no_route]))):
        assert NAMED in local_network.hint(exc, "darwin")
        assert not local_network.hint(exc, "linux")
    for exc in (refused, raised(refused), TimeoutError()):
        assert not local_network.hint(exc, "darwin")


def test_a_refused_connection_does_not_mention_local_network_privacy(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "http://x:1")
    error = manager_unreachable(settings, OSError(errno.ECONNREFUSED, "refused"), "darwin")
    assert isinstance(error, ManagerUnreachable)
    assert NAMED not in error.message
