"""The code and docs use the words of docs/glossary.md, and none that it refuses.

Only the files and folders in ``CLEAN`` are checked. ``python -m tests.test_glossary [PATH...]`` prints
the findings elsewhere.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from hostctl.local_stack import ROOT

# The checked files and folders, one per line.
CLEAN = (
    ".env.example",
    ".github",
    "bench",
    "bin",
    "CHANGELOG.md",
    "cli",
    "config.16gb.yaml",
    "config.demo.yaml",
    "config.yaml",
    "contracts",
    "CONTRIBUTING.md",
    "demo",
    "docker-compose.dev.yml",
    "docker-compose.yml",
    "Dockerfile",
    "docs",
    "gateway",
    "hostctl",
    "launchd",
    "Makefile",
    "manager",
    "packaging",
    "README.md",
    "scripts",
    "SECURITY.md",
    "testkit",
    "tests/__init__.py",
    "tests/bench",
    "tests/cli",
    "tests/clients",
    "tests/conftest.py",
    "tests/contracts",
    "tests/demo",
    "tests/faults",
    "tests/fuzz",
    "tests/gateway",
    "tests/hostctl",
    "tests/integration",
    "tests/live",
    "tests/manager",
    "tests/openapi",
    "tests/rehearsal",
    "tests/security",
    "tests/test_audit.py",
    "tests/test_core.py",
    "tests/test_docs_shell.py",
    "tests/test_every_setting.py",
    "tests/test_flows.py",
    "tests/test_image_sizes.py",
    "tests/test_import_order.py",
    "tests/test_needs.py",
    "tests/test_rehearsal_hub.py",
    "tests/test_release.py",
    "tests/test_servers.py",
    "tests/test_setup.py",
    "tests/test_setup_python.py",
    "tests/tools",
    "tests/web",
    "tests/workers",
    "web",
    "workers",
)
PRODUCT = ("contracts", "web", "gateway", "manager", "workers", "cli", "hostctl")
EVERYTHING = (*PRODUCT, *CLEAN, "openapi.yaml", "bench", "demo", "testkit", "tests")
SUFFIXES = {".md", ".py", ".js", ".html", ".css", ".yaml", ".yml", ".sh", ".toml", ""}
KOREAN = ("README.ko.md", "docs/ko")

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
_CODE = re.compile(r"`([^`]*)`")


class Text(NamedTuple):
    """*kind*: prose or identifiers. The name of a class's field is ``Class.field``."""

    line: int
    text: str
    kind: str = "prose"


class Finding(NamedTuple):
    file: str
    line: int
    word: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.word!r} in {self.text.strip()[:120]!r}"


# --- the page --------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]


WORDS = rows("Words")
KEPT = {name for row in rows("Names that keep an old word") for name in _CODE.findall(row[0])}


@cache
def refused(kind: str) -> re.Pattern[str]:
    """The patterns refused in *kind* of text; identifiers are matched part by part."""
    patterns = [
        pattern.replace("\\|", "|")
        for cell, _, scope in rows("Not these")
        if scope in (kind, "both")
        for pattern in _CODE.findall(cell)
    ]
    return re.compile(rf"(?<![\w-])({'|'.join(patterns)})(?![\w-])", re.I)


# Sentences with a clause as subject, or "who" for a request. Questions may begin like this.
HEADLESS = re.compile(
    r"(?:^|[.:;] )"
    r"(What [^.?!:;|]*? (?:is|are|was|were|has|goes|comes|makes) [^.?!]*|Who [a-z][^.?!]*)(?=[.!]|$)"
)


# --- the texts of a file -----------------------------------------------------------------------------


def texts(file: Path) -> Iterator[Text]:
    content = file.read_text(encoding="utf-8")
    match file.suffix:
        case ".md":
            return _markdown(content)
        case ".py":
            return _python(content)
        case ".js" | ".html" | ".css":
            return _web(content)
        case _ if file.name == "openapi.yaml":
            return (Text(n, _CODE.sub("", line)) for n, line in enumerate(content.splitlines(), 1))
        case _:
            return _commented(content)


def _markdown(content: str) -> Iterator[Text]:
    """Paragraphs and table cells, without code, URLs and generated sections."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    content = re.sub(r"<!-- ([\w ]+) -->.*?<!-- end of \1 -->", blank, content, flags=re.S)
    content = re.sub(r"```.*?```|<!--.*?-->", blank, content, flags=re.S)
    if content.startswith("# Glossary\n"):  # this table lists the refused words
        content = re.sub(r"(?<=## Not these\n).*?(?=\n## )", blank, content, flags=re.S)
    content = re.sub(r"\]\([^)]*\)|https?://[^\s`]+|<\S+>", "", content)
    content = re.sub(r"`[^`]*`", lambda m: "X" + blank(m), content)
    begin, paragraph = 0, ""
    for number, line in enumerate([*content.splitlines(), ""], 1):
        if (
            not line.strip()
            or line.startswith(("|", "#", "* ", "- ", "> "))
            or re.match(r"\d+\. ", line)
        ):
            if paragraph:
                yield Text(begin, paragraph)
            paragraph = ""
        if line.startswith("|"):
            yield from (Text(number, cell.strip()) for cell in line.split("|") if cell.strip())
        elif line.startswith("#"):
            yield Text(number, f"{line.lstrip('# ')}?")  # a heading is not a sentence
        elif line.strip():
            begin = begin if paragraph else number
            paragraph += f" {line.strip('>*- ')}" if paragraph else line.lstrip(">*- 0123456789.")


def _python(content: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string.strip("# "))
    tree = ast.parse(content)
    fields = {
        id(field.target): f"{node.name}.{field.target.id}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if " " in text:
                yield Text(node.lineno, re.sub(r"``?[^`]*``?", "X", " ".join(text.split())))
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Text(node.lineno, node.name, "identifiers")
            case ast.arg():
                yield Text(node.lineno, node.arg, "identifiers")
            case ast.Name(ctx=ast.Store()):
                yield Text(node.lineno, fields.get(id(node), node.id), "identifiers")


def _web(content: str) -> Iterator[Text]:
    for match in re.finditer(
        r"//([^\n]*)|/\*(.*?)\*/|<!--(.*?)-->|'([^'\n]*)'|\"([^\"\n]*)\"|`([^`]*)`|>([^<>{}]+)<",
        content,
        re.S,
    ):
        text = next((group for group in match.groups() if group), "")
        if " " in text.strip() or match[7]:
            yield Text(content.count("\n", 0, match.start()) + 1, " ".join(text.split()))
    for match in re.finditer(r"\b(?:const|let|function|class)\s+(\w+)", content):
        yield Text(content.count("\n", 0, match.start()) + 1, match[1], "identifiers")


def _commented(content: str) -> Iterator[Text]:
    for number, line in enumerate(content.splitlines(), 1):
        _, sign, comment = line.partition("#")
        if sign:
            yield Text(number, _CODE.sub("X", comment))


def parts(name: str) -> str:
    """``PrefillBudget`` and ``prefill_budget`` as separate words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", name).strip()


def findings(files: Iterable[Path], root: Path = ROOT) -> list[Finding]:
    found = []
    for file in files:
        for line, text, kind in texts(file):
            if text in KEPT or text.rpartition(".")[2] in KEPT:
                continue
            words = parts(text) if kind == "identifiers" else text
            bad = [match[0] for match in refused(kind).finditer(words)]
            if kind == "prose":
                bad += [match[1] for match in HEADLESS.finditer(words)]
            found += [Finding(str(file.relative_to(root)), line, word, text) for word in bad]
    return found


def files_of(names: Iterable[str]) -> list[Path]:
    found = []
    for name in names:
        path = ROOT / name
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        found += [p for p in inside if p.suffix in SUFFIXES and not _foreign(p)]
    return found


def _foreign(file: Path) -> bool:
    name = str(file.relative_to(ROOT))
    return (
        name.startswith(KOREAN)
        or "uplot" in name
        or "__pycache__" in name
        or "node_modules" in name
        or ".lock" in name
    )


# --- the tests ---------------------------------------------------------------------------------------


@cache
def names_in_code() -> frozenset[str]:
    words: set[str] = set()
    for file in files_of(PRODUCT):
        if file.suffix == ".py":
            words |= set(re.findall(r"\w+", file.read_text(encoding="utf-8")))
    return frozenset(words)


def test_each_word_has_one_sentence_and_identifiers_that_exist() -> None:
    assert 35 <= len(WORDS) <= 60
    assert [word for word, *_ in WORDS] == sorted(
        (w for w, *_ in WORDS), key=lambda w: w.strip("`").lower()
    )
    for word, meaning, names in WORDS:
        assert meaning, word
        assert ". " not in meaning, word
        missing = [name for name in _CODE.findall(names) if name not in names_in_code()]
        assert _CODE.findall(names), word
        assert missing == [], f"{word}: no such name in the code"


@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_use_no_refused_word(name: str) -> None:
    assert "\n".join(map(str, findings(files_of([name])))) == ""


def test_a_refused_word_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    bad = "All pictures are told."
    cases = {
        "a.md": f"# All\n\nThat is\n{bad}\n\n| x | {bad} |\n",
        "b.py": f'"""{bad}"""\nx = 1  # {bad}\ntold_pictures = f"{bad} {{x}}"\n',
        "c.js": f"// {bad}\nconst toldPictures = '{bad}';\n",
        "d.html": f"<p>{bad}</p>\n",
        "e.yaml": f"a: 1  # {bad}\n",
    }
    for name, content in cases.items():
        (tmp_path / name).write_text(content)
    found = Counter(f.file for f in findings(sorted(tmp_path.iterdir()), tmp_path))
    assert found == {"a.md": 4, "b.py": 8, "c.js": 6, "d.html": 2, "e.yaml": 2}


def test_the_fields_of_a_class_can_keep_an_old_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "KEPT", {"Work.pictures"})
    file = tmp_path / "a.py"
    file.write_text("class Work:\n    pictures: int\n\n\nclass Other:\n    pictures: int\n")
    assert [f.line for f in findings([file], tmp_path)] == [6]


def test_code_urls_and_generated_sections_are_not_checked(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "`told` and [x](told.md) <!-- told -->\n\n```sh\ntold\n```\n\n"
        "<!-- t -->\ntold\n<!-- end of t -->\n"
    )
    assert findings([page], tmp_path) == []


def test_a_sentence_with_a_clause_as_subject_is_found_and_a_question_is_not(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "What is in it is kept.\n\nWho waits gets an error.\n\n"
        "Who waits? What is it?\n\n## What is kept\n"
    )
    assert [f.line for f in findings([page], tmp_path)] == [1, 3]


def report(names: list[str]) -> str:
    """All findings in *names*; without names, the number of findings per file."""
    if names:
        return "\n".join(map(str, findings(files_of(names))))
    counts = Counter(finding.file for finding in findings(files_of(EVERYTHING)))
    lines = [f"{count:5} {file}" for file, count in sorted(counts.items())]
    return "\n".join([*lines, f"{counts.total():5} in total"])


if __name__ == "__main__":
    sys.stdout.write(f"{report(sys.argv[1:])}\n")
