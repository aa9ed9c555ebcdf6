"""The shared stand-in: no test sees the state of another."""

from __future__ import annotations

import httpx
import pytest

from tests.gateway.stand_in import SHARED, StandIn

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("time", ["once", "again"])
def test_the_client_fixture_resets_the_stand_in(client: httpx.Client, time: str) -> None:
    assert StandIn(client_left=SHARED.client_left) == SHARED
    assert client.post(CHAT, json=HELLO).status_code == 200
    assert len(SHARED.received) == 1
    SHARED.mode = "fail"
    SHARED.deaths = 5
    SHARED.slow = 30.0
    SHARED.model["status"] = "failed"
    SHARED.drawn.append(b"x")
    SHARED.given = ("x", 500, True)
    SHARED.control.append("/stop/a")
    SHARED.control_tokens.append("t0ken")
    SHARED.client_left.set()
