"""The audit: allowed licenses, vulnerabilities, wheels; a skipped check is not reported as clean."""

from __future__ import annotations

import json
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from scripts import audit, wheels

LOCK = """\
one==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:00
Two.x==2.0rc1 \\
    --hash=sha256:00
"""


def package(**fields: Any) -> Message:
    message = Message()
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            message[name.replace("_", "-")] = one
    return message


def test_every_locked_package_has_an_allowed_license() -> None:
    texts = [(audit.ROOT / "requirements" / f"{name}.lock").read_text() for name in audit.LOCKS]
    licenses = {locked.name: audit.license_of(locked.name) for locked in audit.locked(texts)}
    assert len(licenses) > 100
    assert audit.refused(licenses) == []


def test_a_lock_is_parsed_with_and_without_markers() -> None:
    assert audit.locked([LOCK, LOCK]) == [("one", "1.0"), ("two.x", "2.0rc1")]


LICENSES: list[Any] = [
    ({"License_Expression": "Apache-2.0 AND MIT", "License": "x"}, "Apache-2.0 AND MIT"),
    ({"Classifier": ["License :: OSI Approved :: MIT License", "Topic :: x"]}, "MIT"),
    ({"Classifier": ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]}, None),
    ({"License": "Apache 2.0 License"}, "Apache-2.0"),
    ({"License": "MIT License\n\nCopyright (c) somebody"}, "MIT"),
    ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
    ({"License": "ask us"}, None),
    ({}, None),
]


def test_the_license_is_read_from_the_metadata() -> None:
    for fields, expected in LICENSES:
        assert audit.license_in(package(**fields)) == expected, fields


def test_other_licenses_are_not_allowed() -> None:
    allowed = {"a": "MIT", "b": "GPL-3.0-only OR MIT", "c": "BSD-3-Clause AND Zlib"}
    wrong = ("GPL-3.0-only", "MIT AND GPL-3.0-only", "AGPL-3.0", "unknown", "(MIT)")
    for license in (*wrong, "LGPL-2.1 OR GPL-3.0"):
        assert audit.refused({**allowed, "wrong": license}) == ["wrong"], license


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}


def test_a_vulnerability_is_reported_with_the_fixed_version() -> None:
    assert audit.vulnerabilities(report(CLEAN, VULNERABLE)) == ["b 2: CVE-1, fixed in 2.1"]


def test_a_package_that_was_not_checked_is_not_clean() -> None:
    with pytest.raises(wheels.CannotCheck, match="no such version"):
        audit.vulnerabilities(report(CLEAN, {"name": "c", "skip_reason": "no such version"}))


@pytest.mark.parametrize(
    ("answer", "argv", "status", "expected"),
    [
        (report(CLEAN), [], 0, "vulnerabilities: 0"),
        (report(VULNERABLE), [], 1, "CVE-1"),
        (report(VULNERABLE), ["--offline-ok"], 1, "CVE-1"),
        (None, [], 2, "not checked: no network"),
        (None, ["--offline-ok"], 0, "not checked: no network"),
    ],
)
def test_the_exit_status_reports_findings_and_skipped_checks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str | None,
    argv: list[str],
    status: int,
    expected: str,
) -> None:
    def run(lock: Path) -> str:
        if answer is None:
            raise wheels.CannotCheck("no network")
        return answer

    monkeypatch.setattr(audit, "run_pip_audit", run)
    monkeypatch.setattr(wheels, "lacks", lambda lock, macos, python: "")
    assert audit.main(argv) == status
    assert expected in capsys.readouterr().out


@pytest.mark.process
def test_a_missing_or_failing_tool_is_not_clean(tmp_path: Path) -> None:
    with pytest.raises(wheels.CannotCheck):
        audit.run_pip_audit(tmp_path / "x.lock", uv=tmp_path / "no-uv")
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 1\n")
    uv.chmod(0o755)
    with pytest.raises(wheels.CannotCheck, match="no route to host"):
        audit.run_pip_audit(tmp_path / "x.lock", uv=uv)


# --- wheels for the Mac ---------------------------------------------------------------------------


def test_every_supported_mac_and_python_is_checked() -> None:
    assert list(wheels.combinations()) == [
        (macos, f"3.{minor}") for macos in (14, 15, 26) for minor in (11, 12, 13, 14)
    ]


@pytest.mark.parametrize(
    ("answers", "argv", "status"),
    [
        ({}, [], 0),
        ({(26, "3.14"): "mlx has no wheels"}, [], 1),
        ({(26, "3.14"): "mlx has no wheels"}, ["--offline-ok"], 1),
        ({(14, "3.11"): None}, [], 2),
        ({(14, "3.11"): None}, ["--offline-ok"], 0),
        ({(14, "3.11"): None, (15, "3.12"): "mlx has no wheels"}, [], 1),
    ],
)
def test_a_missing_wheel_fails_the_audit_and_each_mac_has_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: dict[tuple[int, str], str | None],
    argv: list[str],
    status: int,
) -> None:
    def lacks(lock: Path, macos: int, python: str) -> str:
        assert lock.name == "host.lock"
        answer = answers.get((macos, python), "")
        if answer is None:
            raise wheels.CannotCheck("no network")
        return answer

    monkeypatch.setattr(audit, "run_pip_audit", lambda lock: report(CLEAN))
    monkeypatch.setattr(wheels, "lacks", lacks)
    assert audit.main(argv) == status
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wheels for")]
    assert len(lines) == 12
    assert sum("complete" in line for line in lines) == 12 - len(answers)


@pytest.mark.process
def test_uv_resolves_for_the_mac_and_a_network_failure_is_not_a_finding(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    lock = tmp_path / "x.lock"
    lock.write_text(LOCK)

    def answer(status: int, stderr: str = "") -> None:
        uv.write_text(
            f'#!/bin/sh\necho "$MACOSX_DEPLOYMENT_TARGET $*" >{tmp_path}/arguments\n'
            f"cat >&2 <<'END'\n{stderr}\nEND\nexit {status}\n"
        )
        uv.chmod(0o755)

    answer(0)
    assert wheels.lacks(lock, 15, "3.14", uv=uv) == ""
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("15.0 pip install --dry-run --python-platform aarch64-apple-darwin")
    assert "--python-version 3.14" in arguments
    assert arguments.rstrip().endswith(f"--requirement {lock}")
    no_wheel = "error: No solution found\n  cause: Because mlx has no wheels\n\nhint: there are others"
    answer(1, no_wheel)
    assert wheels.lacks(lock, 14, "3.11", uv=uv) == "Because mlx has no wheels"
    answer(2, "error: Failed to fetch\n  cause: Connection refused")
    with pytest.raises(wheels.CannotCheck, match="Connection refused"):
        wheels.lacks(lock, 14, "3.11", uv=uv)
    with pytest.raises(wheels.CannotCheck):
        wheels.lacks(lock, 14, "3.11", uv=tmp_path / "no-uv")
