"""The diagrams in docs/dev/architecture.md match ``scripts.flows``, and their code exists."""

from __future__ import annotations

from scripts.flows import FLOWS, PAGE, Step, missing, page


def test_every_step_names_code_that_exists() -> None:
    assert {name: missing(steps) for name, steps in FLOWS.items()} == {name: [] for name in FLOWS}


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run `python -m scripts.flows`"


def test_a_missing_module_or_name_is_found() -> None:
    gone = (
        Step("G", "gateway/gone.py", "check_chat", ""),
        Step("G", "gateway/checks.py", "gone", ""),
        Step("M", "manager/pool.py", "Pool.gone", ""),
        Step("M", "manager/pool.py", "Pool.lease", ""),
    )
    assert missing(gone) == [
        "gateway/gone.py check_chat",
        "gateway/checks.py gone",
        "manager/pool.py Pool.gone",
    ]


def test_no_text_breaks_a_line_of_mermaid() -> None:
    for steps in FLOWS.values():
        assert [step.what for step in steps if set(step.what) & set(";#\n")] == []
