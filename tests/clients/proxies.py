"""LiteLLM's proxy in front of our stack, configured as in docs/clients.md."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from testkit import plain
from testkit.client_environments import ENVIRONMENTS
from testkit.servers import free_port
from testkit.stacks import wait_for
from tests.clients.examples import at_home, examples

_START_S = 180.0  # 20 s of work on an idle machine
_AT_HOME = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


class LiteLLMProxy:
    """``with LiteLLMProxy(...) as proxy:`` starts it; ``wait`` returns when it responds."""

    key = "sk-of-the-proxy"

    def __init__(self, folder: Path, base_url: str, key: str) -> None:
        self._port = free_port()
        self._config = folder / "litellm.yaml"
        self._log = folder / "litellm.log"
        config = yaml.safe_load(at_home(examples()["litellm-proxy"], base_url, key))
        behind = config["model_list"][0]["litellm_params"]
        unknown = {"model_name": "no/such", "litellm_params": {**behind, "model": "openai/no/such"}}
        config["model_list"].append(unknown)
        config["general_settings"] = {"master_key": self.key}
        config["router_settings"] = {"num_retries": 0}
        self._config.write_text(yaml.safe_dump(config))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        program = str(ENVIRONMENTS / "litellm" / "bin" / "litellm")
        place = ["--host", "127.0.0.1", "--port", str(self._port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "--config", str(self._config), *place],
                env={**os.environ, **_AT_HOME},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        """Wait until it responds."""
        wait_for(self._answers, _START_S)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return plain.get(f"{self.base_url}/models", headers=self._bearer, timeout=5).is_success
        except httpx.TransportError:
            return False

    @property
    def _bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}
