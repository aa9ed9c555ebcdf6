"""The report always lists missed targets and where we are behind."""

from __future__ import annotations

from bench.markdown import number, section, summary
from bench.results import Better
from tests.bench.samples import ratio, results
from tests.test_docs import ragged_rows

AHEAD, BEHIND = (0.4, 0.5, 0.5, 0.5, 0.6), (1.4, 1.5, 1.5, 1.5, 1.6)


def test_a_row_has_both_sides_and_the_ratio_with_its_spread() -> None:
    (row,) = (line for line in section(results(ratio(*AHEAD))).splitlines() if "a chat" in line)
    assert row == (
        "| a chat | LiteLLM | 0.500 (0.400 to 0.600) | 1.00 (1.00 to 1.00)"
        " | **0.500** (0.400 to 0.600) |  | ahead |"
    )


def test_a_section_names_peers_rounds_and_time() -> None:
    assert section(results()).startswith("5 rounds, 4 min; LiteLLM 1.2.3.\n")
    assert section(results(rounds=1, took_s=50)).startswith("1 round, 50 s;")


def test_a_busy_machine_is_reported() -> None:
    assert "Other programs used 37% of the CPU" in section(results(busy=0.37))
    assert "Other programs" not in section(results(busy=0.05))


def test_the_summary_has_every_target_and_its_verdict() -> None:
    lines = summary([results(ratio(*AHEAD, target=0.3), ratio(*AHEAD))]).splitlines()
    assert (
        "| overhead: a chat, ours / LiteLLM | at most 0.3 | 0.500 (0.400 to 0.600) | **MISSED** |"
        in lines
    )
    assert "| overhead: held | at most 64 | 61.0 (60.0 to 65.0) MiB | met |" in lines
    assert sum(line.startswith("| overhead") for line in lines) == 2


def test_the_summary_lists_where_a_peer_is_ahead_and_nothing_else() -> None:
    vlm = results(ratio(*BEHIND, better=Better.MORE), name="vlm")
    text = summary([results(ratio(*AHEAD), ratio(*BEHIND, case="a stream")), vlm])
    listed = [line for line in text.splitlines() if line.startswith("* ")]
    assert listed == ["* overhead: whole requests, a stream, ours / LiteLLM: 1.50 (1.40 to 1.60)"]
    assert summary([results(ratio(*AHEAD))]).endswith("* nowhere")


def test_a_run_of_few_rounds_does_not_claim_that_no_peer_is_ahead() -> None:
    text = summary([results(ratio(1.5, 1.5)), results(rounds=2, name="vlm")])
    assert text.endswith("* not reported for vlm: fewer than 5 rounds")
    assert "nowhere" not in text


def test_the_summary_names_each_machine_once() -> None:
    assert "on: a machine." in summary([results(), results(name="vlm")])
    assert "on: a machine; another." in summary([results(), results(machine="another")])


def test_every_table_row_has_all_cells() -> None:
    made = results(ratio(*AHEAD, target=0.3), ratio(*BEHIND))
    assert ragged_rows(section(made)) == []
    assert ragged_rows(summary([made])) == []


def test_numbers_have_three_significant_digits() -> None:
    values = [1234.4, 100.0, 12.34, 1.0, 0.0514, -2.0]
    assert [number(value) for value in values] == ["1234", "100", "12.3", "1.00", "0.051", "-2.00"]
