"""The faults: each has the name of its row, and what makes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.site import Site


class Scenario(NamedTuple):
    """`strike` gets the site and the process of the long task, behind which `intruder` is sent.

    What it interrupts is to run again within `back` seconds. `twice` is how many tasks may be done
    twice, at most one for each process: a task that has ended when the worker is gone before it
    could tell Redis looks to everybody like one that has not.
    """

    fault: str
    strike: Callable[[Site, str], None]
    workers: int = 1
    seconds: float = 4  # of the long task
    back: float = 5
    twice: int = 0
    intruder: str = "pass"


def _kill_child(site: Site, child: str) -> None:
    site.pi.run("kill", "-KILL", child)


def _kill_main(site: Site, _: str) -> None:
    _signal(site, "KILL", site.worker)


def _kill_group(site: Site, _: str) -> None:
    site.ctl("kill", "--signal=KILL", site.worker)


def _stop(site: Site, _: str) -> None:
    site.ctl("stop", site.worker)
    site.ctl("start", site.worker)


def _restart_redis(site: Site, _: str) -> None:
    site.ctl("restart", site.redis)


def _kill_redis(site: Site, _: str) -> None:
    _signal(site, "KILL", site.redis)


def _reboot(site: Site, _: str) -> None:
    site.pi.reboot()


def _cut_power(site: Site, _: str) -> None:
    site.pi.power_cut()


def _lose_host(site: Site, child: str) -> None:
    """As if the machine of that worker were gone: nothing cleans up, nothing starts it again."""
    unit = site.pi.run("cat", f"/proc/{child}/cgroup").stdout.strip().rpartition("/")[2]
    dead = "[Service]\nRestart=no\nExecStop=\nExecStopPost=\n"
    path = f"/run/systemd/system/{unit}.d"
    site.pi.run("sh", "-c", f"mkdir -p {path} && cat >{path}/dead.conf", input=dead.encode())
    site.ctl("daemon-reload")
    site.ctl("kill", "--signal=KILL", unit)


def _freeze(site: Site, _: str) -> None:
    _signal(site, "STOP", site.worker)


def _nothing(_: Site, __: str) -> None:
    """The intruder does it."""


def _trouble_the_living(site: Site, child: str) -> None:
    """Both workers live, the one with the long task looks dead for 10 s, and Redis restarts."""
    unit = site.pi.run("cat", f"/proc/{child}/cgroup").stdout.strip().rpartition("/")[2]
    site.ctl("kill", "--signal=STOP", unit)
    time.sleep(10)
    site.ctl("kill", "--signal=CONT", unit)
    time.sleep(5)
    _restart_redis(site, child)


def _signal(site: Site, signal: str, unit: str) -> None:
    site.ctl("kill", "--kill-whom=main", f"--signal={signal}", unit)


# Nothing of the worker's ends by itself: all is done once systemd has ended it, within `back`.
HALTED = ("frozen", "hang")
SCENARIOS = {
    "child": Scenario("process of a task killed", _kill_child),
    "main": Scenario("worker's main process killed", _kill_main, twice=2),
    "group": Scenario("worker killed with its children", _kill_group, twice=2),
    "stop": Scenario("worker stopped and started in a long task", _stop),
    "redis-restart": Scenario("Redis restarted", _restart_redis),
    "redis-kill": Scenario("Redis killed", _kill_redis),
    "reboot": Scenario("machine restarted", _reboot, back=20),  # the boot is part of it
    "power": Scenario("power cut", _cut_power, back=20, twice=2),
    "host": Scenario("one of two workers killed for good", _lose_host, workers=2, back=30, twice=2),
    "living": Scenario(
        "none: one of two workers frozen for 10 s, Redis restarted, in a task of 40 s",
        _trouble_the_living,
        workers=2,
        seconds=40,
    ),
    "frozen": Scenario("worker's main process frozen (SIGSTOP)", _freeze, back=60, twice=2),
    "hang": Scenario(
        "worker hangs as a task arrives",
        _nothing,
        back=60,
        twice=2,
        intruder="stall.delay('stall.marks')",
    ),
    "poison": Scenario(
        "a task kills its process, each time", _nothing, intruder="poison.delay('poison.marks')"
    ),
}
