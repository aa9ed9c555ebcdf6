"""Release notes, pinned actions, and the published image."""

from __future__ import annotations

import re

import pytest
import yaml

from contracts.version import VERSION
from hostctl.local_stack import ROOT
from scripts.release_notes import NotReleasable, notes

CHANGELOG = """\
# Changelog

## Unreleased

- not yet

## [1.10.0] - 2026-02-01

### Added
- a thing

## 1.1.0 - unreleased

- another
"""


def test_the_notes_are_the_section_of_the_version() -> None:
    assert notes("v1.10.0", CHANGELOG, "1.10.0") == "### Added\n- a thing\n"


@pytest.mark.parametrize(
    ("tag", "version", "reason"),
    [
        ("v1.10.0", "1.9.0", "the tag is v1.10.0 and pyproject.toml says 1.9.0"),
        ("v1.1.0", "1.1.0", "set the release date of 1.1.0"),
        ("v1.0.0", "1.0.0", "has no section for 1.0.0"),
    ],
)
def test_a_tag_that_is_not_ready_is_refused_with_the_reason(
    tag: str, version: str, reason: str
) -> None:
    with pytest.raises(NotReleasable, match=reason):
        notes(tag, CHANGELOG, version)


def test_every_action_is_pinned_by_commit_and_names_its_version() -> None:
    used = [
        line
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if "uses:" in line and "uses: ./" not in line
    ]
    assert len(used) > 8
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), line


def test_each_action_has_one_version_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action, commit in re.findall(r"uses: ([\w/-]+)@(\w+)", file.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


def test_compose_runs_the_published_image() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    image = re.fullmatch(r"\$\{GATEWAY_IMAGE:-(.*):latest}", compose["services"]["gateway"]["image"])
    assert image is not None
    dockerfile = (ROOT / "Dockerfile").read_text()
    (source,) = re.findall(r'image\.source="https://github\.com/([^"]+)"', dockerfile)
    assert image[1] == f"ghcr.io/{source}"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert f"ARG VERSION={version[1]} " in dockerfile
    assert version[1] == VERSION
