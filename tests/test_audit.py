"""The audit: every locked package has an allowed licence; what was not asked is not called clean."""

from __future__ import annotations

import json
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from scripts import audit

LOCK = """\
one==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:00
Two.x==2.0rc1 \\
    --hash=sha256:00
"""


def told(**fields: Any) -> Message:
    message = Message()
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            message[name.replace("_", "-")] = one
    return message


def test_every_locked_package_has_an_allowed_licence() -> None:
    texts = [(audit.ROOT / "requirements" / f"{name}.lock").read_text() for name in audit.LOCKS]
    licences = {package.name: audit.licence_of(package.name) for package in audit.locked(texts)}
    assert len(licences) > 100
    assert audit.refused(licences) == []


def test_a_lock_is_read_with_and_without_markers() -> None:
    assert audit.locked([LOCK, LOCK]) == [("one", "1.0"), ("two.x", "2.0rc1")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "Apache-2.0 AND MIT", "License": "x"}, "Apache-2.0 AND MIT"),
        ({"Classifier": ["License :: OSI Approved :: MIT License", "Topic :: x"]}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]}, None),
        ({"License": "Apache 2.0 License"}, "Apache-2.0"),
        ({"License": "MIT License\n\nCopyright (c) somebody"}, "MIT"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "ask us"}, None),
        ({}, None),
    ],
)
def test_a_licence_is_read_from_what_packages_tell(fields: Any, expected: str | None) -> None:
    assert audit.licence(told(**fields)) == expected


@pytest.mark.parametrize(
    "wrong",
    ["GPL-3.0-only", "MIT AND GPL-3.0-only", "AGPL-3.0", "unknown", "(MIT)", "LGPL-2.1 OR GPL-3.0"],
)
def test_another_licence_is_not_allowed(wrong: str) -> None:
    fine = {"a": "MIT", "b": "GPL-3.0-only OR MIT", "c": "BSD-3-Clause AND Zlib"}
    assert audit.refused({**fine, "wrong": wrong}) == ["wrong"]


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}


def test_a_known_fault_is_told_with_what_mends_it() -> None:
    assert audit.faults(report(CLEAN, FAULTY)) == ["b 2: CVE-1, mended in 2.1"]


def test_a_package_that_was_not_asked_about_is_not_clean() -> None:
    with pytest.raises(audit.CannotCheck, match="no such version"):
        audit.faults(report(CLEAN, {"name": "c", "skip_reason": "no such version"}))


@pytest.mark.parametrize(
    ("answer", "argv", "status", "said"),
    [
        (report(CLEAN), [], 0, "known faults: 0"),
        (report(FAULTY), [], 1, "CVE-1"),
        (report(FAULTY), ["--offline-ok"], 1, "CVE-1"),
        (None, [], 2, "not checked: no network"),
        (None, ["--offline-ok"], 0, "not checked: no network"),
    ],
)
def test_the_status_says_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str | None,
    argv: list[str],
    status: int,
    said: str,
) -> None:
    def ask(lock: Path) -> str:
        if answer is None:
            raise audit.CannotCheck("no network")
        return answer

    monkeypatch.setattr(audit, "ask_pip_audit", ask)
    assert audit.main(argv) == status
    assert said in capsys.readouterr().out


def test_a_tool_that_is_not_there_or_says_nothing_is_not_clean(tmp_path: Path) -> None:
    with pytest.raises(audit.CannotCheck):
        audit.ask_pip_audit(tmp_path / "x.lock", uv=tmp_path / "no-uv")
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 1\n")
    uv.chmod(0o755)
    with pytest.raises(audit.CannotCheck, match="no route to host"):
        audit.ask_pip_audit(tmp_path / "x.lock", uv=uv)
