"""The fuzzer finds planted faults and writes reproducers; a short run finds nothing in our code."""

from __future__ import annotations

import inspect
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import __main__ as command
from tests.fuzz.coverage import Lines
from tests.fuzz.driver import Fuzzing, Target, failure, started
from tests.fuzz.mutation import LONGEST, mutated
from tests.fuzz.streams import events
from tests.fuzz.targets import TARGETS

HERE = str(Path(__file__))
CASES = {"settings": 30, "heads": 100, "form": 200, "requests": 200, "stream": 500}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_short_run_finds_nothing(target: Target) -> None:
    (fuzzing,) = started([target], seed=6)
    fuzzing.run(lambda fuzzing: fuzzing.cases < CASES.get(target.name, 1000))
    assert [finding.what for finding in fuzzing.findings.values()] == []
    assert len(fuzzing.lines) > 15, "the target runs no lines of ours"
    assert len(fuzzing.corpus) >= len(target.seeds)


# --- the fuzzer itself ----------------------------------------------------------------------------


def planted(data: bytes) -> None:
    """A fault behind four conditions, which chance alone would reach once in 2 ** 32 tries."""
    if data[:1] == b"f":  # noqa: SIM102
        if data[1:2] == b"u":  # noqa: SIM102
            if data[2:3] == b"z":  # noqa: SIM102
                if data[3:4] == b"z":
                    raise RuntimeError("planted")


def fuzzing_of(target: Target, seed: int) -> Fuzzing:
    return Fuzzing(target, random.Random(seed), Lines([HERE]))


def test_it_finds_a_fault_that_chance_alone_would_not() -> None:
    fuzzing = fuzzing_of(Target("planted", planted, [b""]), 1)
    fuzzing.run(lambda fuzzing: not fuzzing.findings and fuzzing.cases < 300_000)
    (finding,) = fuzzing.findings.values()
    assert finding.data.startswith(b"fuzz")
    assert "planted" in finding.what


def test_the_same_seed_gives_the_same_inputs() -> None:
    corpora = []
    for seed in (1, 1, 2):
        fuzzing = fuzzing_of(Target("planted", planted, [b"fu"], [b"z"]), seed)
        tried: list[bytes] = []
        fuzzing.target = Target("planted", tried.append, [b"fu"], [b"z"])
        fuzzing.run(lambda fuzzing: fuzzing.cases < 50)
        corpora.append(tried)
    assert corpora[0] == corpora[1] != corpora[2]


def test_a_fault_is_reported_once_and_its_inputs_are_not_kept() -> None:
    fuzzing = fuzzing_of(Target("planted", planted, [b"fuzz", b"fuzz1", b"fuzz2"]), 1)
    fuzzing.run(lambda fuzzing: fuzzing.cases < 3)
    assert (len(fuzzing.findings), fuzzing.corpus) == (1, [])


def test_a_slow_input_is_a_finding() -> None:
    ticks = iter(range(0, 1000, 5))
    target = Target("slow", lambda data: None, [b"x"])
    fuzzing = Fuzzing(target, random.Random(1), Lines([HERE]), clock=lambda: float(next(ticks)))
    fuzzing.run(lambda fuzzing: fuzzing.cases < 1)
    assert list(fuzzing.findings) == ["slow"]


def test_a_finding_ends_with_status_1_and_a_reproducer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("planted", planted, [b"fuzz"])
    monkeypatch.setattr(command, "TARGETS", (target,))
    argv = ["--minutes", "0.001", "--seed", "1", "--findings", str(tmp_path)]
    assert command.main(argv) == 1
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"fuzz"
    assert str(file) in capsys.readouterr().out
    assert command.main([str(file)]) == 1
    file.write_bytes(b"fuz")
    assert command.main([str(file)]) == 0


def test_a_run_without_findings_ends_with_status_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TARGETS", (Target("fine", lambda data: None, [b"x"]),))
    argv = ["--minutes", "0.001", "--seed", "1", "--findings", str(tmp_path / "none")]
    assert command.main(argv) == 0
    assert "0 findings" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_line_counts_once_and_only_in_the_named_files() -> None:
    # In a separate file: from Python 3.14 on, lines of this function would count as well.
    names: dict[str, Any] = {}
    exec(compile(inspect.getsource(planted), "/planted/here.py", "exec"), names)
    target = Target("planted", names["planted"], [])
    lines = Lines(["/planted"])
    with lines.counted():
        failure(target, b"x")
    first = len(lines)
    assert first > 0
    with lines.counted():
        failure(target, b"x")
    assert first == len(lines)
    with lines.counted():
        failure(target, b"fu")
    assert len(lines) == first + 2
    another = Lines(["/planted"])
    with another.counted():
        failure(target, b"x")
    assert len(another) == first
    elsewhere = Lines(["/nowhere"])
    with elsewhere.counted():
        failure(target, b"fu")
    assert len(elsewhere) == 0


@given(st.binary(), st.integers(), st.lists(st.binary(max_size=20), max_size=3))
def test_mutations_are_bounded_and_reproducible(data: bytes, seed: int, others: list[bytes]) -> None:
    changed = mutated(data, random.Random(seed), others=others, tokens=[b"word"])
    assert len(changed) <= LONGEST
    assert changed == mutated(data, random.Random(seed), others=others, tokens=[b"word"])


def test_mutated_json_usually_stays_json() -> None:
    data = json.dumps({"a": [1, {"b": "c"}], "d": None}).encode()
    rng = random.Random(1)
    changed = [mutated(data, rng, others=[data], tokens=[b"word"]) for _ in range(500)]
    good = 0
    for one in changed:
        try:
            json.loads(one)
            good += 1
        except ValueError:
            pass
    assert 100 < good < 450
    assert len(set(changed)) > 300


def test_events_are_parsed_according_to_the_standard() -> None:
    for text, expected in (
        (b"data: a\n\n", [("message", "a")]),
        (b": c\nevent: e\ndata:a\ndata: b\r\n\r\ndata: c\r\r", [("e", "a\nb"), ("message", "c")]),
        (b"event: lost\n\ndata: a", []),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
    ):
        assert events(text) == expected
