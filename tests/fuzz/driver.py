"""The loop: pick an input, change it, run the target, keep what is new, write down what is wrong."""

from __future__ import annotations

import hashlib
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart import multipart
from starlette import formparsers

from tests.fuzz.coverage import Lines
from tests.fuzz.mutation import mutated

ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 2.0  # of the processor, for one input


@dataclass(frozen=True)
class Target:
    """``run`` returns for whatever input, unless it has found something; it then raises."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()


@dataclass(frozen=True)
class Finding:
    target: str
    where: str  # the same fault is reported once
    what: str
    data: bytes

    @property
    def file_name(self) -> str:
        return f"{self.target}-{hashlib.sha256(self.data).hexdigest()[:12]}"


@dataclass
class Fuzzing:
    """One target being fuzzed. *clock*: processor seconds, by which a slow input is told."""

    target: Target
    rng: random.Random
    lines: Lines
    clock: Callable[[], float] = time.process_time
    cases: int = 0
    seconds: float = 0.0
    corpus: list[bytes] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)

    def run(self, going_on: Callable[[Fuzzing], bool]) -> None:
        """Cases, for as long as it is *going_on*."""
        with self.lines.counted():
            while going_on(self):
                self._step()

    def _step(self) -> None:
        """One case: each seed first, as it is."""
        seeds = self.target.seeds
        data = seeds[self.cases] if self.cases < len(seeds) else self._next()
        known = len(self.lines)
        began = self.clock()
        found = failure(self.target, data)
        took = self.clock() - began
        self.seconds += took
        self.cases += 1
        if found is None and took > SLOW_S:
            found = Finding(self.target.name, "slow", f"{took:.1f} s of the processor", data)
        if found is not None:
            self.findings.setdefault(found.where, found)
        elif len(self.lines) > known or self.cases <= len(self.target.seeds):
            self.corpus.append(data)

    def _next(self) -> bytes:
        # What was found last has been changed least.
        recent = self.corpus[-8:] if self.rng.random() < 0.5 else self.corpus
        parent = self.rng.choice(recent) if recent else b""
        return mutated(parent, self.rng, others=self.corpus, tokens=self.target.tokens)


def failure(target: Target, data: bytes) -> Finding | None:
    """What *target* finds wrong with *data*."""
    try:
        target.run(data)
    except Exception as exc:
        frames = traceback.extract_tb(exc.__traceback__)
        ours = [f for f in frames if f.filename.startswith(str(ROOT)) and "/.venv/" not in f.filename]
        last = (ours or frames)[-1]
        where = f"{type(exc).__name__} at {Path(last.filename).name}:{last.lineno}"
        return Finding(target.name, where, "".join(traceback.format_exception(exc)), data)
    return None


def started(targets: Sequence[Target], seed: int) -> list[Fuzzing]:
    """*targets*, each with its own randomness: what one does changes nothing for another."""
    prefixes = [
        f"{ROOT}/{package}/" for package in ("contracts", "web", "gateway", "manager", "workers")
    ]
    # And what reads forms, which is in Python too.
    prefixes += [str(module.__file__) for module in (formparsers, multipart)]
    return [Fuzzing(t, random.Random(f"{seed}:{t.name}"), Lines(prefixes)) for t in targets]


def fuzz(
    targets: Sequence[Target],
    *,
    seed: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    slice_s: float = 2.0,
    tell: Callable[[Sequence[Fuzzing], float], None] = lambda fuzzings, left_s: None,
) -> list[Fuzzing]:
    """Fuzz *targets* in turn for *seconds* in all; *tell* is called after each round."""
    fuzzings = started(targets, seed)
    end = clock() + seconds
    while clock() < end:
        for fuzzing in fuzzings:
            stop = min(end, clock() + slice_s)
            fuzzing.run(lambda fuzzing, stop=stop: clock() < stop)  # type: ignore[misc]
        tell(fuzzings, end - clock())
    return fuzzings
