"""Which model serves a request that names none."""

from __future__ import annotations

from pathlib import Path

from contracts.settings.file import load
from gateway.routing import default_model

VLM_ONLY = """
models:
  a: {kind: vlm, path: org/a, port: 8001, memory_gb: 1}
  b: {kind: vlm, path: org/b, port: 8002, memory_gb: 1}
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_a_route_without_a_default_uses_the_first_capable_model(tmp_path: Path) -> None:
    settings = load(write(tmp_path, VLM_ONLY), {})
    assert [default_model(settings, route) for route in ("chat", "analyze")] == ["a", "a"]
    # Settings without image models are valid; image requests are refused.
    assert [default_model(settings, route) for route in ("generate", "edit")] == [None, None]
    named = load(write(tmp_path, VLM_ONLY + "defaults: {chat: b}\n"), {})
    assert [default_model(named, route) for route in ("chat", "analyze")] == ["b", "a"]
    fill = "  fill: {kind: image, family: flux1-fill, path: x/y, port: 8003, memory_gb: 1}\n"
    filling = load(write(tmp_path, VLM_ONLY + fill), {})
    assert [default_model(filling, route) for route in ("generate", "edit")] == [None, "fill"]
