"""A server's limit of open files, and what happens to open requests when it stops."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import threading

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from testkit.servers import free_port
from web.access_log import AccessLog
from web.serve import bind, make_server


@pytest.mark.process
def test_a_server_raises_the_limit_of_open_files_that_launchd_sets() -> None:
    code = (
        "import resource as r; from web.serve import allow_many_connections as allow;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard));"
        "allow(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (8192 if hard == resource.RLIM_INFINITY else min(hard, 8192))


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_outlasts_the_grace_period_gets_an_error_in_openai_s_shape(begun: bool) -> None:
    """uvicorn cancels it, and would send "Internal Server Error" as plain text."""
    entered = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        entered.set()
        await asyncio.sleep(60)

    port = free_port()
    server = make_server(AccessLog(app, "worker"), graceful_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bind("127.0.0.1", port)]})
    thread.start()

    def stop() -> None:
        assert entered.wait(10)
        server.should_exit = True

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        if begun:
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{port}/x", timeout=15)
            return
        response = httpx.get(f"http://127.0.0.1:{port}/x", timeout=15)
    finally:
        stopper.join(15)
        thread.join(15)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "the worker is stopping"
    assert response.headers["retry-after"] == "5"
    assert "x-request-id" in response.headers
