"""Where drawn pictures go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.failures import UsageError
from cli.names import check_writable, file_for, format_of, slug


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.png", "png"), ("a.JPG", "jpeg"), ("a.jpeg", "jpeg"), ("b/a.webp", "webp"), ("-", "png")],
)
def test_the_format_is_what_the_name_ends_with(name: str, form: str) -> None:
    assert format_of(Path(name)) == form


def test_without_a_name_or_in_a_folder_it_is_png(tmp_path: Path) -> None:
    assert format_of(None) == format_of(tmp_path) == "png"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.gif", "a.png.bak"])
def test_another_end_is_misuse(name: str) -> None:
    with pytest.raises(UsageError, match="ends with one of"):
        format_of(Path(name))


def test_a_folder_that_is_not_there_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.png", 1)
    check_writable(None, 4)
    check_writable(tmp_path, 4)
    with pytest.raises(UsageError, match="no such folder"):
        check_writable(tmp_path / "absent" / "a.png", 1)


def test_stdout_takes_one_picture() -> None:
    check_writable(Path("-"), 1)
    with pytest.raises(UsageError, match="takes one picture"):
        check_writable(Path("-"), 2)


def nowhere(path: Path) -> bool:
    return False


def test_one_picture_gets_the_name_and_more_are_numbered() -> None:
    assert file_for(Path("o/a.png"), "x", 1, 0, 1, nowhere) == Path("o/a.png")
    assert [file_for(Path("a.png"), "x", 1, i, 2, nowhere).name for i in (0, 1)] == [
        "a-1.png", "a-2.png",
    ]  # fmt: skip


def test_a_name_that_was_given_is_written_over_and_one_made_up_never(tmp_path: Path) -> None:
    there = {tmp_path / "a-cat-7.png", tmp_path / "a-cat-7-2.png"}
    assert file_for(tmp_path, "A cat!", 7, 0, 1, there.__contains__).name == "a-cat-7-3.png"
    named = tmp_path / "a.png"
    assert file_for(named, "x", 7, 0, 1, {named}.__contains__) == named


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, on blue", "a-red-circle-on-blue"),
        ("빨간 원", "빨간-원"),
        ("../../etc/passwd", "etc-passwd"),
        ("!?", "picture"),
        ("word " * 20, "word-word-word-word-word-word-word-word"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_made_up_name_has_the_first_words(prompt: str, name: str) -> None:
    assert slug(prompt) == name


@given(st.text())
def test_a_made_up_name_stays_in_its_folder(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name) <= 40
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
