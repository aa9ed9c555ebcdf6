"""The budget never exceeds a Mac's GPU limit, and names the rule that decides it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from contracts.control import DeviceMemory, Phase, WorkerHealth
from contracts.settings import MemorySettings, WorkerSettings
from contracts.settings.base import GIB
from contracts.settings.file import SettingsError
from manager.ceiling import Bound, Budget, Mac, budget_of, ceiling_of, check_wired_limit, mac_of
from manager.events import EventBus
from manager.memory.system import WIRED_LIMIT, MemoryReading, sysctl
from manager.ticker import Ticker
from tests.manager.virtual import Scene, story

SETTINGS = MemorySettings()
MINI = Mac(16 * GIB, (15, 6, 1))


def ceiling_gb(mac: Mac, reported: int = 0) -> float:
    bound = ceiling_of(mac, reported)
    assert bound is not None
    return round(bound.bytes / GIB, 2)


SEQUOIA: tuple[tuple[int, ...], ...] = ((14, 7), (15, 6, 1), ())  # (): not known
TAHOE: tuple[tuple[int, ...], ...] = ((26, 0), (27,))


def test_the_gpu_s_share_of_memory_depends_on_the_macos_version() -> None:
    """As ``recommendedMaxWorkingSetSize`` was logged on Macs of these sizes."""
    found = {
        (memory, version): ceiling_gb(Mac(memory * GIB, version))
        for memory in (16, 24, 64)
        for version in SEQUOIA + TAHOE
    }
    assert found == {
        **{(16, version): 10.67 for version in SEQUOIA},
        **{(16, version): 11.84 for version in TAHOE},
        **{(24, version): 16.0 for version in SEQUOIA},
        **{(24, version): 17.76 for version in TAHOE},
        **{(64, version): 48.0 for version in SEQUOIA},
        **{(64, version): 47.36 for version in TAHOE},
    }


def test_a_set_sysctl_decides() -> None:
    assert ceiling_gb(Mac(16 * GIB, (15,), wired_limit=14 * GIB)) == 14
    assert ceiling_gb(Mac(16 * GIB, (15,), wired_limit=99 * GIB)) == 16


def test_the_limit_reported_by_metal_applies_when_it_is_lower() -> None:
    assert ceiling_gb(MINI, reported=9 * GIB) == 9
    assert ceiling_gb(MINI, reported=12 * GIB) == 10.67
    assert ceiling_gb(Mac(16 * GIB, (15,), wired_limit=14 * GIB), reported=13 * GIB) == 13


def test_only_a_mac_has_a_ceiling() -> None:
    assert mac_of(16 * GIB, name="linux") is None
    assert ceiling_of(None, reported=GIB) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has the name")
def test_other_systems_have_no_sysctl() -> None:
    assert sysctl(WIRED_LIMIT) is None


def test_mac_of_reads_version_and_sysctl() -> None:
    def read(version: str, mebibytes: int | None) -> Mac | None:
        values = {} if mebibytes is None else {WIRED_LIMIT: mebibytes}
        return mac_of(GIB, name="darwin", version=lambda: version, sysctl=values.get)

    assert read("26.1", 20480) == Mac(GIB, (26, 1), 20 * GIB)
    assert read("15.6.1", 0) == Mac(GIB, (15, 6, 1), 0)
    assert read("", None) == Mac(GIB, (), 0)
    assert read("15.6", -1) == Mac(GIB, (15, 6), 0)


def test_the_budget_names_the_rule_that_decides_it() -> None:
    capped = MemorySettings(max_unified_memory_gb=6.0)
    margin = MemorySettings(safety_margin_gb=4.0)
    tahoe = Mac(16 * GIB, (26, 0))
    assert budget_of(SETTINGS, 16 * GIB, None).bytes == 11 * GIB
    assert [
        budget_of(settings, 16 * GIB, ceiling_of(mac)).why
        for settings, mac in ((SETTINGS, MINI), (SETTINGS, tahoe), (capped, MINI), (margin, MINI))
    ] == [
        "GPU limit: 67 % of 16 GB on macOS 15.6.1",
        "75 % of the machine's memory less memory.safety_margin_gb",
        "memory.max_unified_memory_gb less memory.safety_margin_gb",
        "75 % of the machine's memory less memory.safety_margin_gb",
    ]
    bound = budget_of(SETTINGS, 16 * GIB, ceiling_of(MINI, 8 * GIB))
    assert bound == Bound(8 * GIB, "GPU limit: reported by Metal")


def test_the_limit_reported_by_metal_is_stored_for_the_same_conditions(tmp_path: Path) -> None:
    file = tmp_path / "state" / "gpu.json"
    budget = Budget(SETTINGS, 16 * GIB, MINI, file)
    assert not budget.update(12 * GIB), "higher than the known limit: no change"
    assert budget.update(9 * GIB)
    assert not budget.update(9 * GIB)
    assert not budget.update(0), "a worker without a GPU reports 0"
    budget.save()
    assert Budget(SETTINGS, 16 * GIB, MINI, file).bytes == 9 * GIB
    for other in (
        Mac(16 * GIB, (26, 0)),
        Mac(24 * GIB, (15, 6, 1)),
        Mac(16 * GIB, (15, 6, 1), wired_limit=10 * GIB),
    ):
        assert Budget(SETTINGS, 16 * GIB, other, file).bytes != 9 * GIB, other


def test_a_damaged_file_is_ignored_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    under = MINI.conditions
    for content in (
        b"",
        b"\xff",
        b"[]",
        b"[" * 4000,
        b'{"gpu_may_hold_bytes": 1}',
        b'{"gpu_may_hold_bytes": true, "under": "%s"}' % under.encode(),
        b'{"gpu_may_hold_bytes": -5, "under": "%s"}' % under.encode(),
        b'{"gpu_may_hold_bytes": 99999999999999, "under": "%s"}' % under.encode(),
    ):
        file.write_bytes(content)
        budget = Budget(SETTINGS, 16 * GIB, MINI, file)
        assert round(budget.bytes / GIB, 2) == 10.67, content
        budget.update(9 * GIB)
        budget.save()
        assert Budget(SETTINGS, 16 * GIB, MINI, file).bytes == 9 * GIB


def test_an_unwritable_disk_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    budget = Budget(SETTINGS, 16 * GIB, MINI, tmp_path / "state" / "gpu.json")
    budget.update(9 * GIB)
    budget.save()
    budget.save()
    assert budget.bytes == 9 * GIB
    assert len(caplog.records) == 1


def test_a_wired_limit_above_half_of_the_gpu_limit_is_refused_at_startup() -> None:
    ceiling = ceiling_of(MINI)
    for size, cured in ((0.0, True), (5.3, True), (5.4, False), (99.0, False)):
        settings = WorkerSettings(wired_limit=size)
        if cured:
            check_wired_limit(settings, ceiling)
        else:
            with pytest.raises(SettingsError, match=r"workers\.wired_limit: .* at most 5\.3 GB"):
                check_wired_limit(settings, ceiling)
        check_wired_limit(settings, None)


@story({"a": 6, "b": 6})
async def test_the_first_worker_lowers_the_budget_to_the_limit_reported_by_metal(scene: Scene) -> None:
    settings = MemorySettings(max_unified_memory_gb=12.0, safety_margin_gb=0.0)
    budget = Budget(settings, 24 * GIB, Mac(24 * GIB, (15,)))
    ticker = Ticker(
        scene.pool,
        peaks=scene.peaks,
        events=EventBus(),
        clock=scene.now,
        read_pressure=lambda: None,
        read_memory=lambda: MemoryReading(1 << 40, 1 << 40),
        budget=budget,
    )
    await scene.served("a")
    await scene.served("b")
    ticker.check_budget()
    assert scene.pool.budget == 12 * GIB
    process = scene.pool.worker("b").process
    assert process is not None
    process.health = WorkerHealth(
        alias="b", phase=Phase.READY, pid=1, device=DeviceMemory(limit=8 * GIB)
    )
    ticker.check_budget()
    await asyncio.sleep(1)
    assert scene.pool.budget == 8 * GIB
    assert [scene.state(alias) for alias in "ab"] == ["stopped", "ready"], "the idle worker is unloaded"
