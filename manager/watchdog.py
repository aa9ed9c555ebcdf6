"""Judges a ready worker by its polls and measurements: does it hang, has it grown too large?

Rules: pure; responses, measurements and times are passed in. A judge belongs to one process. After a
gap in which the manager did not run (sleep, stopped processes, a changed clock) all timeouts start
again.
"""

from __future__ import annotations

from contracts.control import DeviceMemory, WorkerHealth

SLEPT_POLLS = 5.0  # a gap between polls longer than this many intervals ...
SLEPT_S = 5.0  # ... and than this many seconds means that the manager did not run


class Watchdog:
    """Decides when a ready worker must be killed: a job hangs, or ``/health`` does not respond.

    Call ``check`` after every poll. The probe timeout plus ``poll_s`` must stay below the longer of
    ``SLEPT_S`` and ``SLEPT_POLLS * poll_s``, or each poll of a hanging worker would count as sleep.
    ``stall_timeout_s`` must be longer than that, too.
    """

    def __init__(self, stall_timeout_s: float, now: float, *, poll_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._longest_gap_s = max(SLEPT_S, SLEPT_POLLS * poll_s)
        self._polled_at = now
        self._answered_at = now
        self._moved_at = now  # it made progress, or had no work
        self._progress = -1

    def __repr__(self) -> str:
        silent, still = self._polled_at - self._answered_at, self._polled_at - self._moved_at
        return f"<Watchdog silent {silent:g} s, still {still:g} s of {self._stall_timeout_s:g} s>"

    def check(self, health: WorkerHealth | None, now: float, *, busy: bool) -> str:
        """Record one poll. Returns why the worker must be killed, for people; "" if it need not be.

        *health* is None when it did not respond. *busy*: it has open requests.
        """
        gap = now - self._polled_at
        self._polled_at = now
        if not 0 <= gap <= self._longest_gap_s:
            self._answered_at = self._moved_at = now
        if health is None:
            silent = now - self._answered_at
            if silent < self._stall_timeout_s:
                return ""
            with_what = ", with open requests" if busy else ""
            return f"/health has not responded for {silent:.0f} s{with_what}"
        self._answered_at = now
        if health.jobs <= 0 or health.progress != self._progress:
            self._moved_at, self._progress = now, health.progress
        still = now - self._moved_at
        if still < self._stall_timeout_s:
            return ""
        open_requests = "1 request was" if health.jobs == 1 else f"{health.jobs} requests were"
        return f"no token or step for {still:.0f} s while {open_requests} open"


class Growth:
    """The footprint of one process compared with its baseline, in bytes.

    *growth*: the share by which it may exceed the baseline, 0: any. *after*: the number of requests
    after which the baseline is fixed. If the first measurement is later, it is the baseline.
    """

    def __init__(self, growth: float, after: int) -> None:
        self.footprint = 0
        self.baseline = 0
        self._growth = growth
        self._after = after
        self._above = 0  # measurements in a row

    def __repr__(self) -> str:
        return f"<Growth {self.footprint} of baseline {self.baseline}>"

    def measured(self, footprint: int, requests: int) -> None:
        """Record a measurement, made after *requests* requests."""
        self.footprint = footprint
        if requests <= self._after or not self.baseline:
            self.baseline = max(self.baseline, footprint)
        over = requests > self._after and footprint > self.baseline * (1 + self._growth)
        self._above = self._above + 1 if over else 0

    @property
    def outgrown(self) -> bool:
        """It must be replaced. One measurement may be a short peak; two in a row are not."""
        return self._growth > 0 and self._above >= 2


def true_footprint(process: int, device: DeviceMemory) -> int:
    """A worker's footprint in bytes: its process, plus its memory on a separate device."""
    return process if device.unified else process + device.active + device.cache


def peak_estimate(footprint: int, device: DeviceMemory) -> int:
    """The highest footprint so far of a worker with *footprint* (a ``true_footprint``).

    MLX records the peak of its active memory, also between polls. The rest of the process is assumed to
    be as large as it is now.
    """
    return max(footprint, footprint - device.active - device.cache + device.peak)
