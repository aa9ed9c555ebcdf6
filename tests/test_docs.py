"""The docs are true: commands run, links lead somewhere, tables are complete, both languages agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from contracts.settings import Settings
from contracts.settings.file import ENVIRONMENT, load
from contracts.settings.models import ImageSettings, VlmSettings
from gateway.openapi.fields import FIELDS
from gateway.openapi.problems import HEADERS, PROBLEMS, codes_of
from hostctl.local_stack import ROOT, LocalStack
from testkit.stacks import demo_config

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
ENGLISH, KOREAN = (ROOT / "README.md").read_text(), (ROOT / "README.ko.md").read_text()
API, ERRORS = (REFERENCE / "api.md").read_text(), (REFERENCE / "errors.md").read_text()
SETTINGS = (REFERENCE / "settings.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:not )?run: .*?) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.S
)
REASONS = ("macOS", "registry")


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    mark: str


def blocks(text: str) -> list[Block]:
    return [Block(m["kind"], m["code"], m["mark"] or "") for m in _BLOCK.finditer(text)]


RUNNABLE = [b for b in blocks(ENGLISH) if b.kind in ("sh", "python")]


def test_the_readme_is_read_in_minutes() -> None:
    for text in (ENGLISH, KOREAN):
        assert len(text.splitlines()) < 250


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
def test_every_example_of_the_api_reference_runs_in_its_order(
    stack: LocalStack, tmp_path: Path
) -> None:
    for block in blocks(API):
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
    assert "the tour passed" in done.stdout


def run(block: Block, stack: LocalStack, folder: Path) -> None:
    gateway, manager = (str(s.port) for s in (stack.settings.gateway, stack.settings.manager))
    code = block.code.replace("localhost:8000", f"localhost:{gateway}")
    code = code.replace("localhost:8100", f"localhost:{manager}")
    argv = ["bash", "-euo", "pipefail", "-c", code]
    environ = {
        **os.environ,
        "PATH": f"{ROOT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VISION_HOST": stack.url,
    }
    if block.kind == "python":
        argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)
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


def anchors(text: str) -> set[str]:
    """The headings of a page, as links name them."""
    plain = re.sub(r"```.*?```", "", text, flags=re.S)
    found = re.findall(r"^#+ (.*)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_local_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            file = page if not name else page.parent / name
            if target.startswith("http"):
                continue
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    index = (DOCS / "README.md").read_text() + (DOCS / "dev" / "README.md").read_text()
    reached = {name for name in re.findall(r"([\w.-]+\.md)", index)}
    assert [p.name for p in DOCS.rglob("*.md") if p.name not in reached | {"README.md"}] == []


def test_every_file_that_a_page_names_exists() -> None:
    """Code in backticks that looks like a path of this repository."""
    folders = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"logs", "state", "models"}
    missing = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
            if name.partition("/")[0] in folders and not (ROOT / name).exists():
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert missing == []


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


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    assert {page.name: found for page in PAGES if (found := ragged_rows(page.read_text()))} == {}


def keys_of_settings() -> set[str]:
    keys = set()
    for name, field in Settings.model_fields.items():
        if name != "models":
            keys |= {f"{name}.{key}" for key in field.annotation.model_fields}  # type: ignore[union-attr]
    for model in (VlmSettings, ImageSettings):
        keys |= {f"models.A.{key}" for key in model.model_fields}
    return keys


def first_cells(text: str) -> set[str]:
    """All code in the first cells of the tables of *text*."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_every_key_and_variable_is_documented_and_no_other() -> None:
    documented = first_cells(SETTINGS)
    assert {name for name in documented if "." in name} == keys_of_settings()
    assert {*ENVIRONMENT, "VISION_CONFIG"} <= documented


def test_settings_that_a_page_shows_are_valid(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("tablet: SECRET\n")
    shown = [
        yaml.safe_load(block.code.replace("laptop: KEY", "laptop: OTHER"))
        for name in ("models.md", "security.md")
        for block in blocks((DOCS / name).read_text())
        if block.kind == "yaml"
    ]
    assert len(shown) >= 3
    for change in shown:
        data = yaml.safe_load((ROOT / "config.yaml").read_text())
        for section, values in change.items():
            data[section] = {**data.get(section, {}), **values}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(data))
        load(file, {})


def test_every_field_of_a_request_is_documented() -> None:
    sections = {
        "ImageGenerationRequest": "## Generate",
        "ImageEditRequest": "## Edit",
        "ChatRequest": "## Chat",
        "ResponseRequest": "## Responses",
        "AnalyzeRequest": "## Analyze",
    }
    missing = []
    for schema, heading in sections.items():
        text = API.partition(heading)[2].partition("\n## ")[0]
        if schema == "ImageEditRequest":  # "others: as for generations"
            text += API.partition("## Generate")[2].partition("\n## ")[0]
        missing += [f"{schema}.{field}" for field in FIELDS[schema] if f"`{field}`" not in text]
    assert missing == []


def test_every_route_is_documented() -> None:
    paths = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"]
    wanted = [
        f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs if verb != "head"
    ]
    assert [route for route in wanted if f"`{route}`" not in API] == []


def test_every_error_and_header_is_documented() -> None:
    rows = dict(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", ERRORS, re.M)[::-1])
    assert set(rows) == {str(status) for status in PROBLEMS} | {"405"}
    codes = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", ERRORS, re.M)
    wanted = [(str(status), code) for status in PROBLEMS for code in codes_of(status)]
    assert [row for row in wanted if row not in codes] == []
    assert [
        name for name in HEADERS if f"`{name}`" not in ERRORS.replace("Retry-After", "retry-after")
    ] == []


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    text = (DOCS / "install.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    silent = {"help", "setup"}
    assert [t for t in targets if t not in silent and f"make {t}" not in text] == []
