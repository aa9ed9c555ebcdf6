"""Folders, and error messages for repositories that cannot be downloaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from testkit.hub_server import children_environ
from testkit.hub_server import hub as a_hub
from testkit.servers import free_port
from workers.engine import LoadError
from workers.hub import model_files
from workers.hub.snapshots import FilePatterns

ROOT = Path(__file__).resolve().parents[3]
LOCATE = """
import sys
from workers.hub import remote
from workers.hub import model_files
from workers.engine import LoadError
remote.PAUSES_S = (0.01, 0.01)
for name in sys.argv[1:]:
    try:
        wanted = model_files.FilePatterns(("*.json",))
        print(model_files.locate(name, "painter", wanted=wanted, report=print).folder)
    except LoadError as exc:
        print(exc)
"""
LIMIT_S = 20
# maker/STATUS-CODE: the Hub's response.
REFUSED = {
    "maker/401": ["refuses", "HF_TOKEN", "hf auth login"],
    "maker/401-GatedRepo": ["gated", "licence", "HF_TOKEN"],
    "maker/403-GatedRepo": ["gated", "licence", "HF_TOKEN"],
    "maker/404-RepoNotFound": ["not on the Hugging Face Hub", "HF_TOKEN"],
    "maker/404": ["not on the Hugging Face Hub"],
    "maker/500": ["not downloaded yet", "500"],
    "a//b": ["neither a Hugging Face id"],
}


def located(names: Sequence[str], endpoint: str, home: Path, **environment: str) -> list[str]:
    """The output of ``model_files.locate`` in its own process (the endpoint is read at import)."""
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, *names],
        env=children_environ(endpoint, home, **environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.process
class TestTheHubRefuses:
    def test_one_line_names_the_key_the_model_and_the_remedy(self, tmp_path: Path) -> None:
        with a_hub({}) as served:
            for name in REFUSED:
                status, _, code = name.removeprefix("maker/").partition("-")
                if status.isdigit():
                    served.refusals[name] = (int(status), code)
            lines = located(list(REFUSED), served.url, tmp_path)
        assert len(lines) == len(REFUSED)
        for line, (name, words) in zip(lines, REFUSED.items(), strict=True):
            assert line.startswith("models.painter.path: ")
            assert all(word in line for word in [name, *words]), line

    def test_an_unreachable_hub_is_reported_at_once(self, tmp_path: Path) -> None:
        (line,) = located(["maker/x"], f"http://127.0.0.1:{free_port()}", tmp_path)
        assert "not downloaded yet" in line
        assert "refused" in line

    def test_offline_mode_is_reported(self, tmp_path: Path) -> None:
        (line,) = located(["maker/x"], "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE is set" in line


def locate(path: str) -> Path:
    return model_files.locate(
        path, "painter", wanted=FilePatterns(("*",)), report=lambda *_: None
    ).folder


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path


def test_a_folder_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    for path in ("/nowhere/at/all", "./nowhere", "~/nowhere-at-all"):
        with pytest.raises(LoadError, match=r"models\.painter\.path: .*nowhere.* does not exist"):
            locate(path)
    (tmp_path / "weights").touch()
    with pytest.raises(LoadError, match="is not a folder"):
        locate(str(tmp_path / "weights"))
