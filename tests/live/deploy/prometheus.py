"""A real Prometheus with the committed configuration, in front of a stack."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from hostctl.local_stack import ROOT
from testkit import plain
from testkit.needs import lacking
from testkit.servers import free_port
from testkit.stacks import wait_for

FOLDER = ROOT / "packaging" / "prometheus"


def program(name: str) -> str:
    found = shutil.which(name)
    return found or lacking(f"{name} is not installed (Debian: apt-get install prometheus)")


def configured(folder: Path, target: str, key: str = "") -> Path:
    """The committed configuration for the gateway at *target*, scraping every second."""
    text = (FOLDER / "prometheus.yml").read_text()
    text, targets = re.subn(r"localhost:8000", target, text)
    text, intervals = re.subn(r"scrape_interval: \d+s", "scrape_interval: 1s", text)
    assert (targets, intervals) == (2, 1)
    text = text.replace("  scrape_interval: 1s", "  scrape_interval: 1s\n  evaluation_interval: 1s")
    if key:
        file = folder / "key"
        file.write_text(key)
        text, commented = re.subn(
            r"# (authorization: .*)/etc/prometheus/vision-key", rf"\1{file}", text
        )
        assert commented == 2
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER / "alerts.yml", folder)
    config = folder / "prometheus.yml"
    config.write_text(text)
    return config


class Prometheus:
    """Prometheus's API; an error fails the test."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=20)

    def get(self, path: str, **params: str) -> Any:
        answer = self._http.get(path, params=params)
        body = answer.json()
        assert body["status"] == "success", f"{params}: {body}"
        assert not body.get("warnings"), body
        return body["data"]

    def values(self, expression: str) -> list[float]:
        """The current values of the series that match *expression*."""
        return [float(series["value"][1]) for series in self.get("/query", query=expression)["result"]]

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(folder: Path, config: Path) -> Iterator[Prometheus]:
    url = f"127.0.0.1:{free_port()}"
    argv = [program("prometheus"), f"--config.file={config}", f"--web.listen-address={url}"]
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(
            [*argv, f"--storage.tsdb.path={folder / 'data'}"], stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        client = Prometheus(f"http://{url}")
        try:
            wait_for(lambda: _ready(url))
            yield client
        finally:
            client.close()
            process.terminate()


def _ready(url: str) -> bool:
    try:
        return plain.get(f"http://{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
