"""File names and formats of generated images."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import UsageError
from cli.image_files import check_writable, file_for, format_of, slug


def test_the_suffix_selects_the_format(tmp_path: Path) -> None:
    formats = {"a.png": "png", "a.JPG": "jpeg", "a.jpeg": "jpeg", "b/a.webp": "webp", "-": "png"}
    for name, form in formats.items():
        assert format_of(Path(name)) == form
    assert format_of(None) == format_of(tmp_path) == "png"


def test_an_unknown_suffix_is_refused() -> None:
    for name in ("a", "a.txt", "a.gif", "a.png.bak"):
        with pytest.raises(UsageError, match="ends with one of"):
            format_of(Path(name))


def test_a_missing_folder_is_reported_before_an_image_is_generated(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.png", 1)
    check_writable(None, 4)
    check_writable(tmp_path, 4)
    with pytest.raises(UsageError, match="no such folder"):
        check_writable(tmp_path / "absent" / "a.png", 1)


def test_only_one_image_can_be_written_to_stdout() -> None:
    check_writable(Path("-"), 1)
    with pytest.raises(UsageError, match="writes one image"):
        check_writable(Path("-"), 2)


def nowhere(path: Path) -> bool:
    return False


def test_several_images_are_numbered() -> None:
    assert file_for(Path("o/a.png"), "x", 1, 0, 1, nowhere) == Path("o/a.png")
    assert [file_for(Path("a.png"), "x", 1, i, 2, nowhere).name for i in (0, 1)] == [
        "a-1.png", "a-2.png",
    ]  # fmt: skip


def test_a_given_name_is_overwritten_and_a_generated_one_never(tmp_path: Path) -> None:
    there = {tmp_path / "a-cat-7.png", tmp_path / "a-cat-7-2.png"}
    assert file_for(tmp_path, "A cat!", 7, 0, 1, there.__contains__).name == "a-cat-7-3.png"
    named = tmp_path / "a.png"
    assert file_for(named, "x", 7, 0, 1, {named}.__contains__) == named


def test_a_generated_name_has_the_first_words_of_the_prompt() -> None:
    for prompt, name in {
        "A red circle, on blue": "a-red-circle-on-blue",
        "빨간 원": "빨간-원",
        "../../etc/passwd": "etc-passwd",
        "!?": "image",
        "word " * 20: "word-word-word-word-word-word-word-word",
        "x" * 99: "x" * 40,
    }.items():
        assert slug(prompt) == name


@given(st.text())
def test_a_generated_name_stays_in_its_folder(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name) <= 40
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
