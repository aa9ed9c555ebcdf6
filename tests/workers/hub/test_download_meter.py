"""The progress of a download, as numbers and as words."""

from __future__ import annotations

from contracts.amounts import left_text, progress_text, size_text
from contracts.control import Download
from workers.hub.download_meter import DownloadMeter

MB = 1_000_000


def test_bytes_from_before_are_done_and_do_not_count_for_the_rate() -> None:
    meter = DownloadMeter(100 * MB)
    assert meter.advanced(40 * MB, 5.0) == Download(done_bytes=40 * MB, total_bytes=100 * MB)
    assert meter.advanced(50 * MB, 7.0) == Download(
        done_bytes=50 * MB, total_bytes=100 * MB, bytes_per_second=5 * MB, eta_seconds=10.0
    )


def test_the_rate_is_averaged_over_ten_seconds() -> None:
    meter = DownloadMeter(1000 * MB)
    for second in range(31):
        slow, fast = min(second, 20), max(0, second - 20)
        download = meter.advanced((slow + 10 * fast) * MB, second)
    assert download.bytes_per_second == 10 * MB
    assert download.eta_seconds == (1000 - 120) / 10


def test_a_stalled_download_has_no_rate_and_no_time_left() -> None:
    meter = DownloadMeter(100 * MB)
    meter.advanced(0, 0.0)
    meter.advanced(50 * MB, 1.0)
    seen = [meter.advanced(50 * MB, 1.0 + second) for second in range(1, 30)]
    assert seen[-1] == Download(done_bytes=50 * MB, total_bytes=100 * MB)
    assert len({progress_text(download) for download in seen[10:]}) == 1


def test_done_never_shrinks_and_never_exceeds_the_total() -> None:
    meter = DownloadMeter(10 * MB)
    done = [meter.advanced(n * MB, n).done_bytes for n in (1, 6, 2, 7, 11)]
    assert done == [1 * MB, 6 * MB, 6 * MB, 7 * MB, 10 * MB]


def test_a_finished_download_has_no_time_left() -> None:
    meter = DownloadMeter(2)
    meter.advanced(0, 0.0)
    assert meter.advanced(2, 1.0).eta_seconds == 0


def test_the_words() -> None:
    for done, total, rate, eta, words in (
        (1.2e9, 4.5e9, 35e6, 95.2, "1.2 of 4.5 GB, 35 MB/s, about 95 s left"),
        (0, 7.4e6, 0, 0, "0 of 7.4 MB, 0 bytes/s"),
        (23.8e9, 23.8e9, 1.25e9, 0, "24 of 24 GB, 1.2 GB/s"),
        (0, 24e9, 20e6, 1199, "0 of 24 GB, 20 MB/s, about 20 min left"),
        (0, 24e9, 500e3, 48000, "0 of 24 GB, 500 kB/s, about 13 h left"),
        (10, 900, 3, 0.2, "10 of 900 bytes, 3 bytes/s, about 1 s left"),
    ):
        download = Download(
            done_bytes=int(done), total_bytes=int(total), bytes_per_second=rate, eta_seconds=eta
        )
        assert progress_text(download) == words


def test_sizes_are_decimal() -> None:
    assert [size_text(n) for n in (0, 999, 6.2e9, 1 << 30)] == [
        "0 bytes",
        "999 bytes",
        "6.2 GB",
        "1.1 GB",
    ]


def test_the_rest_is_described_without_the_rate() -> None:
    assert left_text(Download()) == "its size is not known yet"
    some = Download(done_bytes=93_000_000, total_bytes=177_000_000)
    assert left_text(some) == "93 of 177 MB"
    moving = some.model_copy(update={"bytes_per_second": 2e6, "eta_seconds": 42.0})
    assert left_text(moving) == "93 of 177 MB, about 42 s left"
