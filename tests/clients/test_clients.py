"""Every client against the real stack: the table of clients times the list of scenarios."""

from __future__ import annotations

import pytest

from contracts.control import WorkerHealth
from hostctl.local_stack import LocalStack
from testkit import plain
from testkit.stacks import wait_for
from tests.clients.conftest import Asker
from tests.clients.scenarios import SCENARIOS, Scenario
from tests.clients.table import CLIENTS, Client, does

pytestmark = [pytest.mark.process, pytest.mark.mlx]

_ATTEMPTS = 3  # without a seed, the demo model gets one image in sixty wrong
_ANSWER_S = 60.0
_STOPPED_S = 10.0  # on a busy machine; a request that is not cancelled continues for half a minute


@pytest.mark.parametrize(
    ("client", "scenario"),
    [
        pytest.param(client, scenario, id=f"{client.name}-{scenario.name}")
        for client in CLIENTS
        for scenario in SCENARIOS
        if does(client, scenario)
    ],
)
def test_a_client_works_as_with_openai(
    client: Client, scenario: Scenario, conversation_with: Asker, stack: LocalStack
) -> None:
    conversation = conversation_with(client)
    for attempts_left in range(_ATTEMPTS if scenario.name in client.unseeded else 1, 0, -1):
        seen = conversation.ask(scenario.name, _ANSWER_S)
        if scenario.leaves:
            wait_for(lambda: _nothing_is_in_flight(stack), _STOPPED_S)
        try:
            scenario.judge(seen)
        except AssertionError:
            if attempts_left == 1:
                raise
        else:
            return


def _nothing_is_in_flight(stack: LocalStack) -> bool:
    """No request at the manager, and no job on the model thread."""
    status = plain.get(f"{stack.url}/v1/system/status", headers=stack.headers).json()
    worker = status["workers"]["vlm-best"]
    health = plain.get(f"http://127.0.0.1:{worker['port']}/health").json()
    return worker["active_requests"] == 0 and WorkerHealth(**health).jobs == 0
