"""After a reboot, and after a power cut, everything is back and nothing is left to deploy."""

from __future__ import annotations

import pytest

from tests.helpers.harness import UNITS, deploy, fsynced, pids, prove, redis, wait_for
from tests.helpers.status_output import reason
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native


@pytest.mark.parametrize("interruption", ["reboot", "power_cut"])
def test_everything_comes_back(pi: VirtualPi, interruption: str) -> None:
    redis(pi, "rpush", f"kept-{interruption}", "task")
    wait_for("it is on the disk", lambda: fsynced(pi))
    getattr(pi, interruption)()
    assert set(pids(pi)) == set(UNITS)
    assert redis(pi, "llen", f"kept-{interruption}") == "1"
    assert "SUCCESS" in prove(pi)
    assert reason(pi, "celery-worker") == reason(pi, "celery-beat") == "the start of the machine"
    assert deploy(pi).changed == set()
    # What a reboot clears is made again, and by its owner's rules.
    modes = pi.run("stat", "-c", "%U %a", "/var/lib/celery-beat", "/run/redis").stdout
    assert modes.split("\n")[:2] == ["www-data 750", "redis 2755"]
