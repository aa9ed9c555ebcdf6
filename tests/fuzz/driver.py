"""The loop: pick an input, mutate it, run the target, keep new inputs, record findings."""

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
SLOW_S = 2.0  # CPU seconds for one input


@dataclass(frozen=True)
class Target:
    """``run`` raises if it finds something, and returns for every other input."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()


@dataclass(frozen=True)
class Finding:
    target: str
    where: str  # findings at the same place are reported once
    what: str
    data: bytes

    @property
    def file_name(self) -> str:
        return f"{self.target}-{hashlib.sha256(self.data).hexdigest()[:12]}"


@dataclass
class Fuzzing:
    """One target being fuzzed. *clock* returns CPU seconds, which decide whether an input is slow."""

    target: Target
    rng: random.Random
    lines: Lines
    clock: Callable[[], float] = time.process_time
    cases: int = 0
    seconds: float = 0.0
    corpus: list[bytes] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)

    def run(self, more: Callable[[Fuzzing], bool]) -> None:
        """Run cases while *more* returns true."""
        with self.lines.counted():
            while more(self):
                self._step()

    def _step(self) -> None:
        """One case: first each seed, unchanged."""
        seeds = self.target.seeds
        data = seeds[self.cases] if self.cases < len(seeds) else self._next()
        known = len(self.lines)
        began = self.clock()
        found = failure(self.target, data)
        took = self.clock() - began
        self.seconds += took
        self.cases += 1
        if found is None and took > SLOW_S:
            found = Finding(self.target.name, "slow", f"{took:.1f} s of CPU time", data)
        if found is not None:
            self.findings.setdefault(found.where, found)
        elif len(self.lines) > known or self.cases <= len(self.target.seeds):
            self.corpus.append(data)

    def _next(self) -> bytes:
        # The latest inputs have been mutated least.
        recent = self.corpus[-8:] if self.rng.random() < 0.5 else self.corpus
        parent = self.rng.choice(recent) if recent else b""
        return mutated(parent, self.rng, others=self.corpus, tokens=self.target.tokens)


def failure(target: Target, data: bytes) -> Finding | None:
    """The finding of *target* for *data*, if any."""
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
    """The state of each target, with its own randomness: targets do not affect each other."""
    prefixes = [
        f"{ROOT}/{package}/" for package in ("contracts", "web", "gateway", "manager", "workers")
    ]
    # And the form parser, which is in Python too.
    prefixes += [str(module.__file__) for module in (formparsers, multipart)]
    return [Fuzzing(t, random.Random(f"{seed}:{t.name}"), Lines(prefixes)) for t in targets]


def fuzz(
    targets: Sequence[Target],
    *,
    seed: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    slice_s: float = 2.0,
    progress: Callable[[Sequence[Fuzzing], float], None] = lambda fuzzings, left_s: None,
) -> list[Fuzzing]:
    """Fuzz *targets* alternately for *seconds* in total; *progress* is called after each round."""
    fuzzings = started(targets, seed)
    end = clock() + seconds
    while clock() < end:
        for fuzzing in fuzzings:
            stop = min(end, clock() + slice_s)
            fuzzing.run(lambda fuzzing, stop=stop: clock() < stop)  # type: ignore[misc]
        progress(fuzzings, end - clock())
    return fuzzings
