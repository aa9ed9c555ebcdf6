"""Judges over the polls of a ready worker: does it still work, and has it grown too large?

Rules: pure. They are told what was heard and measured, with the time; they never ask. A judge belongs
to one incarnation. Time in which the manager did not run itself (the machine slept, the whole tree was
stopped, the clock was set) is held against no worker: all its clocks start again.
"""

from __future__ import annotations

from contracts.control import DeviceMemory, WorkerHealth

SLEPT_POLLS = 5.0  # a gap between polls that is longer than this many intervals ...
SLEPT_S = 5.0  # ... and than these seconds is one in which the manager did not run


class Watchdog:
    """When a ready worker must be killed: it hangs in a job, or its ``/health`` says nothing.

    Call ``heard`` after every poll. A poll may take as long as the probe's timeout; that and ``poll_s``
    together must stay below the longer of ``SLEPT_S`` and ``SLEPT_POLLS * poll_s``, or each poll of a
    hanging worker would count as sleep. ``stall_timeout_s`` must be longer than that as well.
    """

    def __init__(self, stall_timeout_s: float, now: float, *, poll_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._longest_gap_s = max(SLEPT_S, SLEPT_POLLS * poll_s)
        self._polled_at = now
        self._answered_at = now
        self._moved_at = now  # it got on with its work, or had none
        self._progress = -1

    def __repr__(self) -> str:
        silent, still = self._polled_at - self._answered_at, self._polled_at - self._moved_at
        return f"<Watchdog silent {silent:g} s, still {still:g} s of {self._stall_timeout_s:g} s>"

    def heard(self, health: WorkerHealth | None, now: float, *, busy: bool) -> str:
        """Take in one poll; "" or why the worker must be killed, for people.

        *health* is None when it did not answer; *busy*: the manager has requests open on it.
        """
        gap = now - self._polled_at
        self._polled_at = now
        if not 0 <= gap <= self._longest_gap_s:
            self._answered_at = self._moved_at = now
        if health is None:
            silent = now - self._answered_at
            if silent < self._stall_timeout_s:
                return ""
            with_what = ", with requests in hand" if busy else ""
            return f"/health has not answered for {silent:.0f} s{with_what}"
        self._answered_at = now
        if health.jobs <= 0 or health.progress != self._progress:
            self._moved_at, self._progress = now, health.progress
        still = now - self._moved_at
        if still < self._stall_timeout_s:
            return ""
        in_hand = "1 request was" if health.jobs == 1 else f"{health.jobs} requests were"
        return f"no token or step for {still:.0f} s while {in_hand} in hand"


class Growth:
    """How large one incarnation is, was, and was at first. All sizes are bytes.

    *growth*: the share by which it may outgrow its baseline, 0 for any; *after*: the number of requests
    that make the baseline. A worker that is first measured later has that measurement as its baseline.
    """

    def __init__(self, growth: float, after: int) -> None:
        self.footprint = 0
        self.peak = 0
        self.baseline = 0
        self.measured_at = 0.0
        self._growth = growth
        self._after = after
        self._above = 0  # measurements in a row

    def __repr__(self) -> str:
        return f"<Growth {self.footprint} of baseline {self.baseline}, peak {self.peak}>"

    def measured(self, footprint: int, requests: int, now: float) -> None:
        """Take in a measurement, made when *requests* had been served."""
        self.footprint, self.measured_at = footprint, now
        self.peak = max(self.peak, footprint)
        if requests <= self._after or not self.baseline:
            self.baseline = max(self.baseline, footprint)
        over = requests > self._after and footprint > self.baseline * (1 + self._growth)
        self._above = self._above + 1 if over else 0

    @property
    def outgrown(self) -> bool:
        """It should be replaced. One measurement may be a passing peak; two in a row are not."""
        return self._growth > 0 and self._above >= 2


def true_footprint(process: int, device: DeviceMemory) -> int:
    """Bytes that a worker costs: its process's footprint, and what it holds on a separate device."""
    return process if device.unified else process + device.active + device.cache


def peak_estimate(footprint: int, device: DeviceMemory) -> int:
    """The most that a worker with *footprint* (a ``true_footprint``) has cost, between polls too.

    MLX remembers the peak of what was active. What the process held besides is taken as it is now.
    """
    return max(footprint, footprint - device.active - device.cache + device.peak)
