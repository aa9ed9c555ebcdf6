"""The README is true: its commands run, its links lead somewhere, both languages say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.settings import Settings
from contracts.settings.file import ENVIRONMENT
from hostctl.local_stack import ROOT, LocalStack
from testkit.stacks import demo_config

ENGLISH, KOREAN = (ROOT / "README.md").read_text(), (ROOT / "README.ko.md").read_text()
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:not )?run: .*?) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.S
)
REASONS = ("macOS", "registry", "it is what runs this")


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    mark: str


def blocks(text: str) -> list[Block]:
    return [Block(m["kind"], m["code"], m["mark"] or "") for m in _BLOCK.finditer(text)]


RUNNABLE = [b for b in blocks(ENGLISH) if b.kind in ("sh", "python")]


def test_a_block_is_left_out_only_for_an_accepted_reason() -> None:
    left_out = [b.mark for b in RUNNABLE if b.mark.startswith("not run: ")]
    assert all(mark.removeprefix("not run: ").startswith(REASONS) for mark in left_out), left_out
    assert len(left_out) < len(RUNNABLE) / 2


@pytest.mark.process
@pytest.mark.mlx
def test_every_block_of_the_readme_runs_in_its_order(stack: LocalStack, tmp_path: Path) -> None:
    for block in RUNNABLE:
        if not block.mark:
            run(block, stack, tmp_path)
    assert (tmp_path / "green.png").exists()


@pytest.mark.process
@pytest.mark.mlx
@pytest.mark.parametrize(
    "block", [b for b in RUNNABLE if b.mark.startswith("run: ")], ids=lambda b: b.code
)
def test_a_block_that_would_stay_runs_in_the_form_that_leaves(block: Block, tmp_path: Path) -> None:
    command = block.mark.removeprefix("run: ")
    assert command.startswith(block.code.strip())
    environ = {**os.environ, "VISION_CONFIG": str(demo_config(tmp_path))}
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the stack tells the truth" in done.stdout


def run(block: Block, stack: LocalStack, folder: Path) -> None:
    gateway, manager = (str(s.port) for s in (stack.settings.gateway, stack.settings.manager))
    code = block.code.replace("localhost:8000", f"localhost:{gateway}")
    code = code.replace("localhost:8100", f"localhost:{manager}")
    argv = ["bash", "-euo", "pipefail", "-c", code]
    if block.kind == "python":
        argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_both_languages_have_the_same_blocks() -> None:
    def stripped(text: str) -> list[tuple[str, str]]:
        return [(b.kind, b.code) for b in blocks(text)]

    assert stripped(ENGLISH) == stripped(KOREAN)


def headings(text: str) -> list[str]:
    return [line.partition(" ")[0] for line in text.splitlines() if re.match(r"#+ ", line)]


def test_both_languages_have_the_same_sections_and_tables() -> None:
    assert headings(ENGLISH) == headings(KOREAN)
    assert ENGLISH.count("\n|") == KOREAN.count("\n|")


@pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_every_local_link_leads_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (ROOT / target).exists(), target


def ragged_rows(text: str) -> list[str]:
    """Rows of tables that have more or fewer cells than the row above them; code blocks are none."""
    found, cells = [], 0
    for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines():
        before, cells = cells, 0
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            if before and cells != before:
                found.append(line)
    return found


def test_a_row_with_a_bar_that_is_not_escaped_is_found() -> None:
    table = "| a | b |\n|---|---|\n"
    assert ragged_rows(f"{table}| x \\| y | z |\n\n| one |\n|---|\n") == []
    assert ragged_rows(f"{table}| x | y | z |\n") == ["| x | y | z |"]
    assert ragged_rows(f"{table}| x |\n") == ["| x |"]


@pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_every_row_of_a_table_has_as_many_cells_as_its_header(text: str) -> None:
    assert ragged_rows(text) == []


@pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_every_key_and_variable_is_documented(text: str) -> None:
    missing = [v for v in ENVIRONMENT if f"`{v}`" not in text]
    for section in set(Settings.model_fields) - {"models"}:
        for key in Settings.model_fields[section].annotation.model_fields:  # type: ignore[union-attr]
            if f"`{section}.{key}`" not in text and f"`.{key}`" not in text:
                missing.append(f"{section}.{key}")
    assert missing == []


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    silent = {"help", "setup", "setup-dev", "format"}
    assert [t for t in targets if t not in silent and f"make {t}" not in ENGLISH] == []
