"""LiteLLM's proxy, with our stack behind it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.clients.table import ENVIRONMENTS
from tests.servers import free_port
from tests.stacks import wait_for

_KEY = "sk-of-the-proxy"


@contextmanager
def litellm_proxy(folder: Path, base_url: str, key: str) -> Iterator[tuple[str, str]]:
    """Its base URL and its key."""
    port = free_port()
    behind = {"api_base": base_url, "api_key": key}
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{behind_it}", **behind}}
            for name, behind_it in {
                "vlm-fast": "vlm-fast",
                "vlm-best": "vlm-best",
                "image-gen": "image-gen",
                "schnell": "schnell",
                "no/such": "no/such",
            }.items()
        ],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"num_retries": 0},
    }
    file = folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(config))
    program = ENVIRONMENTS / "litellm" / "bin" / "litellm"
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(url), 60)
        yield f"{url}/v1", _KEY
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
