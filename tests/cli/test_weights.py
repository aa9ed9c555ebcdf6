"""Weights are downloaded and deleted on the stack's machine, and only the named ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.settings.file import load
from hostctl.local_stack import LocalStack
from hostctl.weights import purge_steps
from testkit.hub_server import hub as hub_server
from testkit.stacks import demo_config
from tests.cli.commands import Vision


def test_files_that_another_model_needs_are_kept(tmp_path: Path) -> None:
    changes = {"models.vlm-best.path": "x/shared", "models.vlm-fast.path": "x/shared"}
    settings = load(demo_config(tmp_path, {**changes, "models.image-gen.path": "x/own"}), {})
    for name in ("shared", "own", "foreign"):
        (tmp_path / f"models--x--{name}").mkdir()

    def removed(*aliases: str) -> list[str]:
        return [step.path.name for step in purge_steps(settings, tmp_path, aliases)]

    assert removed("vlm-best") == []
    assert removed("image-gen") == ["models--x--own"]
    assert removed("vlm-best", "vlm-fast") == ["models--x--shared"]


@pytest.mark.process
@pytest.mark.mlx
def test_pull_downloads_weights_and_rm_deletes_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"x" * 1000)
    kept = tmp_path / "models" / "hub" / "models--x--y"
    with hub_server({"x/y": source}) as hub:
        config = demo_config(tmp_path / "stack", {"models.vlm-best.path": "x/y"})
        (config.parent / ".env").write_text(f"HF_ENDPOINT={hub.url}\nHF_HOME={tmp_path / 'models'}\n")
        vision = Vision(tmp_path, {"VISION_CONFIG": str(config)})
        assert "make status" in vision("pull", "vlm-best").err
        with LocalStack(config, {"PATH": "/usr/bin:/bin"}) as stack:
            stack.wait_until_ready()
            done = vision.well("pull", "qwen2.5-vl", "--json")
            (pulled,) = done.json
            first = done.err.splitlines()[0]
            assert first.startswith("to download: vlm-best (x/y); ")
            assert first.endswith(f" GB free in {kept.parent}")
            assert (pulled["alias"], pulled["fetched_bytes"], pulled["problem"]) == (
                "vlm-best",
                1002,
                "",
            )
            assert kept.is_dir()

            assert "to download" not in vision.well("pull", "vlm-best").err
            planned = vision.well("rm", "vlm-best", "--dry-run", "--json").json
            there = sum(
                f.lstat().st_size for f in kept.rglob("*") if f.is_file() and not f.is_symlink()
            )
            assert planned == {"removed": [str(kept)], "freed_bytes": there, "dry_run": True}
            assert there > 1002
            assert kept.is_dir()
            assert f"deleted {kept}" in vision.well("rm", "vlm-best").out
            assert not kept.exists()

            assert "in your own folder, which is kept" in vision.well("rm", "vlm-fast").out
            assert Path(stack.settings.models["vlm-fast"].path).is_dir()

            hub.refusals["x/y"] = (401, "GatedRepo")
            done = vision("pull", "vlm-best")
            assert done.status == 1
            assert "gated" in done.err
        assert vision("rm", "nobody").status == 1
