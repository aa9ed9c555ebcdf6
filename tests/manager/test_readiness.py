"""Readiness: which responses are valid, and what counts as progress."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manager.readiness import ProbeResponse, Readiness

NONCE, PID = "n0nce", 4711


def judge() -> Readiness:
    return Readiness(NONCE, PID, timeout_s=10.0, progressed_at=100.0)


def answer(status: int = 503, **fields: Any) -> ProbeResponse:
    body = {"alias": "a", "phase": "loading", "detail": "", "nonce": NONCE, "pid": PID, **fields}
    return ProbeResponse(status, json.dumps(body).encode())


def test_200_with_the_nonce_and_the_pid_is_ready() -> None:
    assert judge().update(answer(200, phase="ready"), 101.0)


def test_503_is_not_ready() -> None:
    assert not judge().update(answer(503), 101.0)


@pytest.mark.parametrize(
    "foreign",
    [
        answer(200, phase="ready", nonce="another"),
        answer(200, phase="ready", pid=PID + 1),
        ProbeResponse(200, b'{"status": "ok"}'),
        ProbeResponse(200, b"<html>"),
        ProbeResponse(404, b""),
        ProbeResponse(200, b"[]"),
    ],
)
def test_another_process_on_the_port_is_never_ready_and_is_reported(foreign: ProbeResponse) -> None:
    readiness = judge()
    assert not readiness.update(foreign, 105.0)
    assert readiness.progressed_at == 100.0
    assert readiness.complaint == "another process responds on its port"


def test_a_missing_response_is_no_progress() -> None:
    readiness = judge()
    assert not readiness.update(None, 109.9)
    assert not readiness.overdue(109.9)
    assert readiness.overdue(110.0)


def test_only_a_change_of_phase_or_detail_is_progress() -> None:
    readiness = judge()
    readiness.update(answer(phase="downloading", detail="1 %"), 105.0)
    readiness.update(answer(phase="downloading", detail="2 %"), 112.0)
    readiness.update(answer(phase="downloading", detail="2 %"), 121.0)
    assert not readiness.overdue(121.9)
    assert readiness.overdue(122.0)
    assert readiness.complaint == "no progress for 10 s while downloading (2 %)"


def test_a_worker_that_reports_a_failure_has_failed() -> None:
    readiness = judge()
    readiness.update(answer(phase="failed", detail="no weights"), 101.0)
    assert readiness.failed
    assert str(readiness) == "failed (no weights)"


def test_another_process_is_forgotten_when_it_leaves_the_port() -> None:
    readiness = judge()
    readiness.update(ProbeResponse(404, b""), 101.0)
    readiness.update(answer(), 102.0)
    assert "no progress" in readiness.complaint


@pytest.mark.parametrize("jump", [86_400.0, -3600.0])
def test_time_in_which_the_manager_did_not_run_does_not_count(jump: float) -> None:
    readiness = Readiness("n0nce", 7, timeout_s=10, progressed_at=100.0)
    for now in (100.0, 102.0, 102.0 + jump):
        readiness.polled(now)
        assert not readiness.overdue(now)
    for seconds in range(1, 10):
        readiness.polled(102.0 + jump + seconds)
    assert not readiness.overdue(102.0 + jump + 9)
    assert readiness.overdue(102.0 + jump + 10)
