"""An install announces the notification that macOS will show."""

from __future__ import annotations

from pathlib import Path

from hostctl import plans
from hostctl.services import BACKGROUND_SETTING
from hostctl.steps import Run, Say
from tests.hostctl.machines import LAUNCHD, SYSTEMD, linux, mac
from tests.hostctl.test_plans import place_in


def test_background_items_are_announced_on_a_mac_before_the_first_agent(tmp_path: Path) -> None:
    for native in (False, True):
        steps = plans.install_plan(mac(), place_in(tmp_path), LAUNCHD, native=native, env_text=None)
        (notice,) = [s for s in steps if isinstance(s, Say) and "Background Items Added" in s.title]
        assert BACKGROUND_SETTING in notice.title
        loads = [i for i, s in enumerate(steps) if isinstance(s, Run) and "launchctl" in s.argv[0]]
        assert steps.index(notice) < loads[0]
        steps = plans.install_plan(linux(), place_in(tmp_path), SYSTEMD, native=native, env_text=None)
        assert not [s for s in steps if "Background Items" in s.title]
